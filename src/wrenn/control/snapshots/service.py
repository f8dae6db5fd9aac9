"""Templates of a team: snapshots of sandboxes under a name; and the templates of the platform."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection, Sequence
from typing import Final, Literal

from wrenn.base.errors import Forbidden, InvalidRequest, NotFound, WrennError
from wrenn.base.faults import fault_point
from wrenn.base.ids import HostId, TeamId, random_hex
from wrenn.control.audit import Actor
from wrenn.control.auth import Caller, Credential
from wrenn.control.db import Database, Transaction
from wrenn.control.snapshots import store
from wrenn.control.snapshots.lifecycle import SnapshotLifecycle
from wrenn.control.snapshots.records import DEFAULT_TEMPLATE, PlatformTemplate, SnapshotSource, Template
from wrenn.control.snapshots.types import CreateSnapshot
from wrenn.protocol.api import TEMPLATE_NAME_PATTERN

FindSnapshotSource = Callable[[Credential, str], Awaitable[tuple[Caller, SnapshotSource]]]
"""From a caller's credential and the id that the caller gave to the caller and a sandbox of which a snapshot may be taken.

Raises: Unauthorized, InvalidRequest, NotFound; InvalidState: it neither runs nor is paused.
"""

BAD_NAME: Final = "must be 1 to 64 letters, digits, '.', '_' or '-', and begin with a letter or digit."


class Snapshots:
    """Creates, lists and deletes the templates of a team."""

    def __init__(
        self, *, database: Database, lifecycle: SnapshotLifecycle, find_source: FindSnapshotSource
    ) -> None:
        self._database = database
        self._lifecycle = lifecycle
        self._find_source = find_source

    async def create(self, credential: Credential, body: CreateSnapshot, *, overwrite: bool) -> Template:
        """Take a snapshot of a sandbox and publish it as a template; the sandbox does not change.

        With `overwrite` an earlier one of this name is there until the new one is, and goes then.

        Raises:
            InvalidState: the sandbox neither runs nor is paused. NameReserved, TemplateNameTaken.
            Else the host's reason. Nothing was kept.
        """
        caller, source = await self._find_source(credential, body.sandbox_id)
        name = f"template-{random_hex(4)}" if body.name is None else body.name
        _check_name(name)
        snapshot_id = await self._lifecycle.begin(source, name=name, may_replace=overwrite)
        await fault_point("control.snapshot.after_insert")
        with self._lifecycle.renewing_lease(snapshot_id):
            try:
                taken = await self._lifecycle.take(source, snapshot_id)
                await fault_point("control.snapshot.after_rpc")
                template, replaced = await self._lifecycle.publish(snapshot_id, taken, by=caller.actor)
            except WrennError:
                await self._lifecycle.retire(snapshot_id)
                await self._lifecycle.drop(snapshot_id)
                raise
        await fault_point("control.snapshot.after_apply")
        for old in replaced:
            await self._lifecycle.drop(old)
        return template

    async def list(
        self, caller: Caller, kind: Literal["base", "snapshot"] | None
    ) -> Sequence[Template | PlatformTemplate]:
        """Return the team's templates, newest first, and the platform's."""
        own = await store.of_team(self._database, caller.team_id) if kind != "base" else []
        images = await store.images(self._database, caller.team_id) if kind != "snapshot" else []
        return [*own, *images]

    async def delete(self, caller: Caller, name: str) -> None:
        """Delete the team's template of this name.

        Sandboxes made from it go on; its files go with the last of them.

        Raises:
            Forbidden: it is the platform's. NotFound.
        """
        _check_name(name)
        snapshot_id = await store.retire_by_name(self._database, caller.team_id, name, by=caller.actor)
        if snapshot_id is not None:
            await self._lifecycle.drop(snapshot_id)
            return
        images = await store.images(self._database, caller.team_id)
        if name == DEFAULT_TEMPLATE or any(image.name == name for image in images):
            raise Forbidden(f"{name} is a template of the platform.")
        raise NotFound(f"There is no template named {name}.")

    async def remove_all(self, tx: Transaction, team_id: TeamId, by: Actor) -> None:
        """Mark all snapshots of a team for removal that is deleted in this transaction; the sweep removes them."""
        await store.retire_all(tx, team_id, by=by)

    async def names_on_host(self, tx: Transaction, host_id: HostId) -> Sequence[str]:
        """Return the names of the templates that lie on a host, of all teams."""
        return await store.names_on_host(tx, host_id)

    async def remove_all_on_hosts(self, tx: Transaction, host_ids: Collection[HostId], by: Actor) -> None:
        """Mark all snapshots of hosts for removal that are deleted in this transaction."""
        await store.retire_on_hosts(tx, host_ids, by=by)


def _check_name(name: str) -> None:
    if TEMPLATE_NAME_PATTERN.fullmatch(name) is None:
        raise InvalidRequest(f"name: {BAD_NAME}")
