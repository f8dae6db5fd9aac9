"""Takes snapshots of sandboxes as templates of their team."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection, Sequence

from wrenn.base.errors import InvalidRequest, WrennError
from wrenn.base.faults import fault_point
from wrenn.base.ids import HostId, TeamId, random_hex
from wrenn.control.audit import Actor
from wrenn.control.auth import Caller, Credential, Scope
from wrenn.control.db import Database, Transaction
from wrenn.control.snapshots import store
from wrenn.control.snapshots.lifecycle import SnapshotLifecycle
from wrenn.control.snapshots.records import MayReplace, SnapshotSource
from wrenn.control.snapshots.types import CreateSnapshot
from wrenn.control.templates import BAD_NAME, Template, remove_all_bases
from wrenn.protocol.api import TEMPLATE_NAME_PATTERN

FindSnapshotSource = Callable[[Credential, str], Awaitable[tuple[Caller, SnapshotSource]]]
"""From a caller's credential and the id that the caller gave to the caller and a sandbox of which a snapshot may be taken.

Raises: Unauthorized, InvalidRequest, NotFound; InvalidState: it neither runs nor is paused.
"""


class Snapshots:
    """Takes snapshots as templates, and removes those of teams and hosts that are deleted."""

    def __init__(
        self, *, database: Database, lifecycle: SnapshotLifecycle, find_source: FindSnapshotSource
    ) -> None:
        self._database = database
        self._lifecycle = lifecycle
        self._find_source = find_source

    async def create(
        self, credential: Credential, body: CreateSnapshot, *, may_replace: MayReplace
    ) -> Template:
        """Take a snapshot of a sandbox and publish it as a template; the sandbox does not change.

        An earlier one of this name that it may replace is there until the new one is, and goes then.

        Raises:
            InvalidState: the sandbox neither runs nor is paused. NameReserved, TemplateNameTaken.
            Else the host's reason. Nothing was kept.
        """
        caller, source = await self._find_source(credential, body.sandbox_id)
        if caller.scope is Scope.SANDBOXES and may_replace is MayReplace.ANYTHING:
            may_replace = MayReplace.SNAPSHOTS
        name = f"template-{random_hex(4)}" if body.name is None else body.name
        _check_name(name)
        snapshot_id = await self._lifecycle.begin(source, name=name, may_replace=may_replace)
        await fault_point("control.snapshot.after_insert")
        with self._lifecycle.renewing_lease(snapshot_id):
            try:
                taken = await self._lifecycle.take(source, snapshot_id, keep_memory=body.keep_memory)
                await fault_point("control.snapshot.after_rpc")
                template, replaced = await self._lifecycle.publish(snapshot_id, taken, by=caller.actor)
            except WrennError:
                await self._lifecycle.take_back(snapshot_id)
                raise
        await fault_point("control.snapshot.after_apply")
        for old in replaced:
            await self._lifecycle.drop(old)
        return template

    async def remove_all(self, tx: Transaction, team_id: TeamId, by: Actor) -> None:
        """Remove all templates of a team that is deleted in this transaction; sweeps remove their files."""
        await store.retire_all(tx, team_id, by=by)
        await remove_all_bases(tx, team_id)

    async def names_on_host(self, tx: Transaction, host_id: HostId) -> Sequence[str]:
        """Return the names of the templates that lie on a host, of all teams."""
        return await store.names_on_host(tx, host_id)

    async def remove_all_on_hosts(self, tx: Transaction, host_ids: Collection[HostId], by: Actor) -> None:
        """Mark all snapshots of hosts for removal that are deleted in this transaction."""
        await store.retire_on_hosts(tx, host_ids, by=by)


def _check_name(name: str) -> None:
    if TEMPLATE_NAME_PATTERN.fullmatch(name) is None:
        raise InvalidRequest(f"name: {BAD_NAME}")
