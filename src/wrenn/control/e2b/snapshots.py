"""Snapshots of sandboxes as the e2b API has them: templates of the type `snapshot`, and `name:default` as their ids."""

from __future__ import annotations

from collections.abc import Sequence

from wrenn.base.errors import InvalidRequest
from wrenn.base.ids import SandboxId
from wrenn.control.auth import Caller, Credential
from wrenn.control.e2b.errors import NotSupported
from wrenn.control.e2b.sandboxes import E2bSandboxes
from wrenn.control.e2b.template_names import DEFAULT_TAG, own_reference
from wrenn.control.snapshots import CreateSnapshot, MayReplace, Snapshots
from wrenn.control.templates import LATEST, Reference, Template, Templates


class E2bSnapshots:
    """Takes and lists snapshots for clients of the e2b API."""

    def __init__(self, *, sandboxes: E2bSandboxes, snapshots: Snapshots, templates: Templates) -> None:
        self._sandboxes = sandboxes
        self._snapshots = snapshots
        self._templates = templates

    async def create(
        self, credential: Credential, text_id: str, *, name: str | None, memory: bool
    ) -> Template:
        """Take a snapshot of a sandbox. One of the same name is replaced when the new one is there; a template that was built is not.

        Raises:
            NotFound: of the sandbox, or the name has a namespace. NotSupported: under a tag.
            TemplateNameTaken: a template of this name was built. Else as `Snapshots.create`.
        """
        found = await self._sandboxes.find(credential, text_id)
        own_name = _own_name(name)
        body = CreateSnapshot(sandbox_id=str(found.sandbox.sandbox_id), name=own_name, keep_memory=memory)
        return await self._snapshots.create(credential, body, may_replace=MayReplace.SNAPSHOTS)

    async def list(
        self, caller: Caller, *, sandbox_id: str | None, name: str | None, limit: int, after: str | None
    ) -> tuple[Sequence[Template], str | None]:
        """Return a page of the team's snapshots, newest first, and the token of the next page.

        `sandbox_id`: only of this sandbox, which may be gone. `name`: only this template.

        Raises:
            InvalidRequest: `after` is no token of a page.
        """
        wanted = None if sandbox_id is None else SandboxId.find(sandbox_id.partition("-")[0])
        found = [
            template
            for template in await self._templates.list(caller, "snapshot")
            if isinstance(template, Template)
            and not template.is_platform
            and (sandbox_id is None or template.sandbox_id == wanted)
            and (name is None or template.name == name.partition(":")[0])
        ]
        if after is not None:
            ids = [str(template.template_id) for template in found]
            if after not in ids:
                raise InvalidRequest(
                    "nextToken: must be that of the page before, whose last snapshot is still there."
                )
            found = found[ids.index(after) + 1 :]
        page = found[:limit]
        return page, str(page[-1].template_id) if len(found) > len(page) else None


def _own_name(name: str | None) -> str | None:
    if name is None:
        return None
    reference = Reference.parse(own_reference(name), field="name")
    if reference.tag not in (None, LATEST):
        raise NotSupported(f"name: a snapshot has the tag {DEFAULT_TAG!r} here.")
    return reference.name
