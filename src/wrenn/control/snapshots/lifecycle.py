"""Keeps snapshots of sandboxes on their hosts, each with its row: begun under a lease, taken, published or dropped.

Whoever begins one holds its lease until it is published or dropped. When that one dies, the sweep (`reconciler.py`) drops it.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Final

from wrenn.base.errors import DeadlineExceeded, InternalError, Unavailable, WrennError
from wrenn.base.ids import SnapshotId
from wrenn.base.tasks import OwnedTasks
from wrenn.control.audit import Actor
from wrenn.control.db import Database, Transaction
from wrenn.control.hosts import HostClients
from wrenn.control.identity import hold_team
from wrenn.control.quotas import Limits, Usage
from wrenn.control.snapshots import store
from wrenn.control.snapshots.errors import NameReserved, TemplateNameTaken
from wrenn.control.snapshots.records import DEFAULT_TEMPLATE, Kept, Source, Template, TemplateStatus
from wrenn.protocol.host import host_pb as pb

_log = logging.getLogger(__name__)

_REMOVE_TIMEOUT_S: Final = 30.0
_AGAIN_S: Final = 0.5


@dataclass(frozen=True, slots=True)
class KeeperSettings:
    """Limits of the work.

    Attributes:
        lease_s: how long a snapshot outlives the replica that makes it.
        take_timeout_s: longest for a host to take one.
        retry_s: how long a host that does not answer is asked again.
        limits: of a team that has none of its own.
    """

    lease_s: float
    take_timeout_s: float
    retry_s: float
    limits: Limits


class Keeper:
    """See the module head. `owner` names the replica's leases."""

    def __init__(
        self, *, database: Database, clients: HostClients, owner: str, settings: KeeperSettings
    ) -> None:
        self._database = database
        self._clients = clients
        self._owner = owner
        self._settings = settings

    async def begin(
        self, source: Source, *, name: str | None = None, may_replace: bool = False
    ) -> SnapshotId:
        """Write down that a snapshot will be; no host is asked yet. Without a name it is seen by nobody.

        Raises:
            NameReserved, TemplateNameTaken, QuotaExceeded: nothing was written.
        """
        snapshot_id = SnapshotId.new()

        async def insert(tx: Transaction) -> None:
            await hold_team(tx, source.team_id)
            if name is not None:
                await store.lock_names(tx)
                if name == DEFAULT_TEMPLATE or await store.is_image(tx, name):
                    raise NameReserved(f"{name} is a template of the platform.")
                there = await store.statuses(tx, source.team_id, name)
                if TemplateStatus.PENDING in there:
                    raise TemplateNameTaken(f"A template named {name} is being made just now.")
                if there and not may_replace:
                    raise TemplateNameTaken(
                        f"There is a template named {name}: use overwrite=true to replace it."
                    )
                if not there:
                    # How much it takes is known only when it is there; with nothing left it need not be begun.
                    team = await store.standing(tx, source.team_id, self._settings.limits)
                    team.admit(Usage(snapshot_mb=1))
            await store.insert_pending(
                tx, snapshot_id, source, name=name, owner=self._owner, lease_s=self._settings.lease_s
            )

        await self._database.transaction(insert)
        return snapshot_id

    @asynccontextmanager
    async def held(self, snapshot_id: SnapshotId) -> AsyncGenerator[None]:
        """Keep the lease on one that was begun."""
        tasks = OwnedTasks()
        tasks.start("renew a snapshot's lease", self._renew(snapshot_id))
        try:
            yield
        finally:
            await tasks.close()

    async def _renew(self, snapshot_id: SnapshotId) -> None:
        lease_s = self._settings.lease_s
        while True:
            await asyncio.sleep(lease_s / 3)
            try:
                await store.renew(self._database, snapshot_id, owner=self._owner, lease_s=lease_s)
            except Exception:  # noqa: BLE001 - the lease may be over then, which its owner notices
                _log.exception("the lease of a snapshot could not be renewed")

    async def take(self, source: Source, snapshot_id: SnapshotId) -> pb.Snapshot:
        """Have the host take it; a host that does not answer is asked again for a time. May be done twice.

        Raises:
            WrennError: what the host said. Unavailable, DeadlineExceeded: it did not answer.
        """
        client = self._clients.at(source.host_address)
        request = pb.EnsureSnapshotRequest(snapshot_id=str(snapshot_id), sandbox_id=str(source.sandbox_id))
        end = asyncio.get_running_loop().time() + self._settings.retry_s
        while True:
            try:
                return await client.call(
                    client.rpc.ensure_snapshot, request, timeout_s=self._settings.take_timeout_s
                )
            except (Unavailable, DeadlineExceeded):
                if asyncio.get_running_loop().time() >= end:
                    raise
                await asyncio.sleep(_AGAIN_S)
            except InternalError as error:
                raise InternalError(
                    "The host could not take the snapshot; its log has the reason.",
                    context={"cause": error.message},
                ) from error

    async def publish(
        self, snapshot_id: SnapshotId, taken: pb.Snapshot, *, by: Actor
    ) -> tuple[Template, list[SnapshotId]]:
        """Make it a template. Returns it, and what it replaced, which is to be dropped.

        Raises:
            Unavailable: the lease is over, and the snapshot with it. QuotaExceeded: the team has not so much room.
        """
        published = await self._database.transaction(
            lambda tx: store.publish(
                tx, snapshot_id, taken, owner=self._owner, by=by, defaults=self._settings.limits
            )
        )
        if published is None:
            raise lease_is_over()
        return published

    async def hold(self, tx: Transaction, snapshot_id: SnapshotId) -> None:
        """Nobody takes the lease until this transaction ends.

        Raises:
            Unavailable: somebody took it before.
        """
        if await store.hold(tx, snapshot_id, owner=self._owner) is None:
            raise lease_is_over()

    async def retire(self, snapshot_id: SnapshotId) -> bool:
        """Of one that was begun: it is not wanted any more, by this owner's decision; False: the lease is over."""
        return await store.retire(self._database, snapshot_id, owner=self._owner)

    async def drop(self, snapshot_id: SnapshotId) -> None:
        """Have the host remove one that is not wanted any more, then forget it.

        What the host cannot do now, the sweep does later.
        """
        kept = await store.load(self._database, snapshot_id)
        if kept is not None and kept.status is TemplateStatus.REMOVING:
            await self.remove(kept)

    async def remove(self, kept: Kept) -> bool:
        """Have the host remove it, then forget it; whether the host did."""
        if not await self.remove_from_host(kept.host_address, kept.snapshot_id):
            return False
        await store.forget(self._database, kept.snapshot_id)
        return True

    async def remove_from_host(self, address: str, snapshot_id: SnapshotId) -> bool:
        """Have the host remove it; whether it did."""
        client = self._clients.at(address)
        request = pb.RemoveSnapshotRequest(snapshot_id=str(snapshot_id))
        try:
            await client.call(client.rpc.remove_snapshot, request, timeout_s=_REMOVE_TIMEOUT_S)
        except WrennError as error:
            _log.warning(
                "snapshot not removed yet",
                extra={"snapshot_id": str(snapshot_id), "cause": error.message},
            )
            return False
        return True


def lease_is_over() -> Unavailable:
    """The refusal for one whose lease was lost: another replica has taken it back."""
    return Unavailable("It took too long and was taken back. Try again.")
