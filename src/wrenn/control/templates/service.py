"""Templates as their users see them: list, tags, deletion."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Final, Literal
from uuid import UUID

from wrenn.base.errors import Forbidden, InvalidRequest, NotFound
from wrenn.base.ids import SnapshotId, TeamId
from wrenn.control.audit import PLATFORM_TEAM, Actor, AuditAction, Resource, Status, record
from wrenn.control.auth import Account, Caller, Scope
from wrenn.control.db import Database, Transaction
from wrenn.control.templates import store
from wrenn.control.templates.records import (
    BAD_NAME,
    DEFAULT_TEMPLATE,
    HostBuiltTemplate,
    Reference,
    Template,
    TemplateType,
)
from wrenn.protocol.api import TEMPLATE_NAME_PATTERN

_ALL_LIMIT: Final = 1_000
_TAGS_LIMIT: Final = 32
"""Tags of one version."""

DropSnapshot = Callable[[SnapshotId], Awaitable[None]]
"""Remove a snapshot that is marked for removal from its host; what the host cannot do now, a sweep does later."""


class Templates:
    """Lists templates, changes their tags, deletes them."""

    def __init__(self, *, database: Database, drop_snapshot: DropSnapshot) -> None:
        self._database = database
        self._drop_snapshot = drop_snapshot

    async def list(
        self, caller: Caller, kind: Literal["base", "snapshot"] | None
    ) -> Sequence[Template | HostBuiltTemplate]:
        """Return the team's templates, newest first, and the platform's."""
        own = await store.owned(self._database, caller.team_id)
        platform = await store.owned(self._database, None)
        found = [template for template in (*own, *platform) if kind is None or template.type == kind]
        host_built = await store.host_built(self._database, caller.team_id) if kind != "snapshot" else []
        return [*found, *host_built]

    async def list_all(self, _admin: Account) -> Sequence[Template]:
        """Return the newest templates of all teams and the platform, at most 1,000."""
        return await store.of_all_owners(self._database, limit=_ALL_LIMIT)

    async def get(self, caller: Caller, text: str) -> Template:
        """Return the version that a reference means. Raises NotFound, InvalidRequest."""
        reference = Reference.parse(text, field="template")
        found = await self._database.transaction(lambda tx: store.find(tx, caller.team_id, reference))
        if found is None:
            raise _unknown(reference)
        return found

    async def versions(self, caller: Caller, name: str) -> list[Template]:
        """Return all versions of a template of the team, newest first; of the platform's if the team has none of this name."""
        own = await store.owned(self._database, caller.team_id, name=name)
        return own or await store.owned(self._database, None, name=name)

    async def is_built_by_hosts(self, caller: Caller, name: str) -> bool:
        """Whether hosts for the team's sandboxes have built a template of this name themselves; `minimal` always counts as such."""
        return (
            any(
                isinstance(each, HostBuiltTemplate) and each.name == name
                for each in await self.list(caller, "base")
            )
            or name == DEFAULT_TEMPLATE
        )

    async def delete(self, caller: Caller, text: str) -> None:
        """Delete what a reference means: a tag, one version, or with a name alone all versions of it.

        Sandboxes made from it continue; its files go with the last of them.

        Raises:
            Forbidden: it is the platform's, or was built and the caller is a key for sandboxes and snapshots. NotFound.
        """
        await self._delete(
            caller.team_id,
            Reference.parse(text, field="template"),
            caller.actor,
            only_snapshots=caller.scope is Scope.SANDBOXES,
        )

    async def delete_of_platform(self, admin: Account, text: str) -> None:
        """Delete a template of the platform, like `delete`.

        Raises:
            Forbidden: it is `minimal`. NotFound.
        """
        await self._delete(None, Reference.parse(text, field="template"), admin.actor)

    async def set_tag(self, caller: Caller, text: str, tag: str) -> Template:
        """Let a tag refer to the version that a reference means; returns it with its tags.

        Raises:
            Forbidden: the template is the platform's. NotFound, InvalidRequest.
        """
        return await self.set_tags(caller, text, [tag])

    async def set_tags(self, caller: Caller, text: str, tags: Sequence[str]) -> Template:
        """Let all these tags refer to the version that a reference means, or none. Else as `set_tag`."""
        team_id, reference = caller.team_id, Reference.parse(text, field="template")
        for tag in tags:
            if TEMPLATE_NAME_PATTERN.fullmatch(tag) is None:
                raise InvalidRequest(f"tag: {BAD_NAME}")

        async def change(tx: Transaction) -> tuple[Template, list[UUID]]:
            template = await store.find_owned(tx, team_id, reference, lock=True)
            if template is None:
                raise await self._why_not_found(tx, team_id, reference)
            if len({*template.tags, *tags}) > max(_TAGS_LIMIT, len(template.tags)):
                raise InvalidRequest(f"tag: a version may have {_TAGS_LIMIT} tags.")
            dropped = await store.set_tags(tx, team_id, template.name, tags, template.template_id)
            await store.record_tags(tx, team_id, template.name, tags, template.template_id, by=caller.actor)
            changed = await store.get(tx, template.template_id)
            assert changed is not None, "its row is locked by the lock on names"
            return changed, dropped

        template, dropped = await self._database.transaction(change)
        await self._drop(dropped)
        return template

    async def _delete(
        self, team_id: TeamId | None, reference: Reference, by: Actor, *, only_snapshots: bool = False
    ) -> None:
        async def change(tx: Transaction) -> list[UUID]:
            await store.lock_names(tx)
            if team_id is None and await self._is_default(tx, reference):
                raise Forbidden(f"{DEFAULT_TEMPLATE} cannot be deleted.")
            if only_snapshots and team_id is not None and await self._was_built(tx, team_id, reference):
                raise Forbidden(f"{reference} was built: to delete it takes a key of scope full.")
            name, dropped, kind = reference.name, None, None
            if reference.template_id is not None or reference.tag is not None:
                template = await store.find_owned(tx, team_id, reference)
                if template is not None:
                    name, kind = template.name, template.type
                    tags = template.tags if reference.tag is None else (reference.tag,)
                    dropped = await store.remove_tags(tx, team_id, name, tags)
            else:
                dropped = await store.remove_all_tags(tx, team_id, name)
            if dropped is None:
                raise await self._why_not_found(tx, team_id, reference)
            what = Resource.TEMPLATE if kind is TemplateType.BASE else Resource.SNAPSHOT
            facts = {"tag": reference.tag} if reference.tag is not None else {}
            await record(
                tx,
                team_id or PLATFORM_TEAM,
                by,
                AuditAction(what, "delete", Status.WARNING, facts=facts),
                name,
            )
            return dropped

        await self._drop(await self._database.transaction(change))

    @staticmethod
    async def _was_built(tx: Transaction, team_id: TeamId, reference: Reference) -> bool:
        if reference.template_id is None and reference.tag is None:
            return await store.was_built(tx, team_id, reference.name)
        template = await store.find_owned(tx, team_id, reference)
        return template is not None and (template.type is TemplateType.BASE or template.build_id is not None)

    async def _is_default(self, tx: Transaction, reference: Reference) -> bool:
        found = await store.find_owned(tx, None, reference)
        return reference.name == DEFAULT_TEMPLATE or (found is not None and found.name == DEFAULT_TEMPLATE)

    async def _why_not_found(
        self, tx: Transaction, team_id: TeamId | None, reference: Reference
    ) -> Forbidden | NotFound:
        if team_id is not None and (
            await store.find_owned(tx, None, reference) is not None
            or (reference.name and await store.is_reserved(tx, team_id, reference.name))
        ):
            return Forbidden(f"{reference} is a template of the platform.")
        return _unknown(reference)

    async def _drop(self, snapshot_ids: Iterable[UUID]) -> None:
        for snapshot_id in snapshot_ids:
            await self._drop_snapshot(SnapshotId(snapshot_id))


def _unknown(reference: Reference) -> NotFound:
    return NotFound(f"There is no template named {reference}.")
