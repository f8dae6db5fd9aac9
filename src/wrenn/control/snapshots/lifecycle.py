"""Takes snapshots on hosts and removes them, each with its row: begun under a lease, taken, published or dropped.

The replica that begins one holds its lease until it is published or dropped. When that replica dies, the sweep (`reconciler.py`) drops it.
"""

from __future__ import annotations

import asyncio
import logging
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Final

from wrenn.base.errors import DeadlineExceeded, InternalError, Unavailable, WrennError
from wrenn.base.ids import SnapshotId
from wrenn.control.audit import Actor
from wrenn.control.db import Database, HeldLeases, Transaction
from wrenn.control.hosts import HostClients, HostEndpoint, HostSnapshot
from wrenn.control.identity import lock_active_team
from wrenn.control.quotas import Limits
from wrenn.control.snapshots import store
from wrenn.control.snapshots.records import MayReplace, NewVersion, SnapshotSource, StoredSnapshot
from wrenn.control.templates import (
    DEFAULT_TEMPLATE,
    NameReserved,
    Template,
    TemplateNameTaken,
    TemplateStatus,
    is_reserved_name,
    lock_names,
    require_any_space,
    statuses,
    was_built,
)

_log = logging.getLogger(__name__)

_REMOVE_TIMEOUT_S: Final = 30.0
_AGAIN_S: Final = 0.5


@dataclass(frozen=True, slots=True)
class SnapshotLifecycleSettings:
    """Timeouts and limits for taking snapshots.

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


class SnapshotLifecycle:
    """Creates snapshots on their hosts and removes them, each together with its row in the database. `owner` names the replica's leases."""

    def __init__(
        self, *, database: Database, clients: HostClients, owner: str, settings: SnapshotLifecycleSettings
    ) -> None:
        self._database = database
        self._clients = clients
        self.leases = HeldLeases(database, store.LEASES, owner=owner, lease_s=settings.lease_s)
        self._settings = settings

    async def begin(
        self,
        source: SnapshotSource,
        *,
        name: str | None = None,
        may_replace: MayReplace = MayReplace.NOTHING,
    ) -> SnapshotId:
        """Insert the row of a new snapshot; no host is called yet. Without a name it is hidden.

        Raises:
            NameReserved, TemplateNameTaken, QuotaExceeded: nothing was written.
        """
        snapshot_id = SnapshotId.new()

        async def insert(tx: Transaction) -> None:
            await lock_active_team(tx, source.team_id)
            if name is not None:
                await lock_names(tx)
                if name == DEFAULT_TEMPLATE or await is_reserved_name(tx, source.team_id, name):
                    raise NameReserved(f"{name} is a template of the platform.")
                there = await statuses(tx, source.team_id, name)
                if TemplateStatus.PENDING in there:
                    raise TemplateNameTaken(f"A template named {name} is being made just now.")
                if may_replace is MayReplace.SNAPSHOTS and await was_built(tx, source.team_id, name):
                    raise TemplateNameTaken(f"The template {name} was built: a snapshot needs another name.")
                if there and may_replace is MayReplace.NOTHING:
                    raise TemplateNameTaken(
                        f"There is a template named {name}: use overwrite=true to replace it."
                    )
                if not there:
                    await require_any_space(tx, source.team_id, self._settings.limits, new_templates=1)
            await store.insert_pending(
                tx, snapshot_id, source, name=name, owner=self.leases.owner, lease_s=self.leases.lease_s
            )

        await self._database.transaction(insert)
        return snapshot_id

    def renewing_lease(self, snapshot_id: SnapshotId) -> AbstractContextManager[None]:
        """Renew the lease on a snapshot that was begun while the body runs.

        Where that fails the lease may be lost, which `lock_lease` and `retire` notice.
        """
        return self.leases.renewed(snapshot_id.value)

    async def take(
        self, source: SnapshotSource, snapshot_id: SnapshotId, *, keep_memory: bool = True
    ) -> HostSnapshot:
        """Have the host take the snapshot; retried for a time while the host does not answer. Safe to repeat.

        Raises:
            WrennError: what the host said. Unavailable, DeadlineExceeded: it did not answer.
        """
        client = self._clients.at(source.host)
        end = asyncio.get_running_loop().time() + self._settings.retry_s
        while True:
            try:
                return await client.ensure_snapshot(
                    snapshot_id,
                    source.sandbox_id,
                    keep_memory=keep_memory,
                    timeout_s=self._settings.take_timeout_s,
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
        self, snapshot_id: SnapshotId, taken: HostSnapshot, *, by: Actor
    ) -> tuple[Template, list[SnapshotId]]:
        """Make the snapshot a template. Returns it, and the snapshots that it replaced, which are to be dropped.

        Raises:
            Unavailable: the lease is over, and the snapshot with it. QuotaExceeded: the team has not so much room.
        """
        published = await self._database.transaction(
            lambda tx: store.publish(
                tx, snapshot_id, taken, owner=self.leases.owner, by=by, defaults=self._settings.limits
            )
        )
        if published is None:
            raise lease_lost()
        template, replaced = published
        return template, [SnapshotId(value) for value in replaced]

    async def publish_as(
        self,
        tx: Transaction,
        snapshot_id: SnapshotId,
        taken: HostSnapshot,
        version: NewVersion,
        *,
        by: Actor,
    ) -> list[SnapshotId]:
        """Make a hidden snapshot a version of a template, in this transaction.

        Returns the snapshots that lost their last tag, which are to be dropped after the commit. Raises as `publish`.
        """
        published = await store.publish(
            tx,
            snapshot_id,
            taken,
            owner=self.leases.owner,
            by=by,
            defaults=self._settings.limits,
            version=version,
        )
        if published is None:
            raise lease_lost()
        return [SnapshotId(value) for value in published[1]]

    async def keep_hidden(self, tx: Transaction, snapshot_id: SnapshotId, taken: HostSnapshot) -> None:
        """Keep a hidden snapshot without a name, in this transaction. Whoever does so marks it for removal some day.

        Raises:
            Unavailable: the lease is over, and the snapshot with it.
        """
        if not await store.keep_hidden(tx, snapshot_id, taken, owner=self.leases.owner):
            raise lease_lost()

    async def lock_lease(self, tx: Transaction, snapshot_id: SnapshotId) -> None:
        """Lock the lease until this transaction ends, so that nobody takes it over.

        Raises:
            Unavailable: somebody took it before.
        """
        if await store.lock_lease(tx, snapshot_id, owner=self.leases.owner) is None:
            raise lease_lost()

    async def retire(self, snapshot_id: SnapshotId) -> bool:
        """Mark a snapshot that was begun for removal; False: the lease was lost."""
        return await store.retire(self._database, snapshot_id, owner=self.leases.owner)

    async def take_back(self, snapshot_id: SnapshotId) -> None:
        """Remove a snapshot that was begun and not published."""
        await self.retire(snapshot_id)
        await self.drop(snapshot_id)

    async def drop(self, snapshot_id: SnapshotId) -> None:
        """Remove a snapshot that is marked for removal from its hosts, then delete its row.

        What the host cannot do now, the sweep does later.
        """
        for stored in await store.load(self._database, snapshot_id):
            if stored.status is TemplateStatus.REMOVING:
                await self.remove(stored)

    async def remove(self, stored: StoredSnapshot) -> None:
        """Remove a snapshot that is marked for removal from a host, then its row, which stays while another host has the snapshot.

        What the host cannot do now, the sweep does later.
        """
        if not await self.remove_from_host(stored.host, stored.snapshot_id):
            return
        if stored.is_copy:
            await store.delete_copy(self._database, stored)
        else:
            await store.delete_row(self._database, stored.snapshot_id)

    async def remove_copy(self, stored: StoredSnapshot) -> None:
        """Remove a copy from its host, then its row, unless it has been used since it was read.

        If a sandbox is created from it meanwhile, the host fetches it again, and the row stays.
        """
        if await store.is_unchanged_copy(self._database, stored):
            await self.remove(stored)

    async def remove_from_host(self, host: HostEndpoint, snapshot_id: SnapshotId) -> bool:
        """Remove a snapshot from a host; False: the host could not."""
        client = self._clients.at(host)
        try:
            await client.remove_snapshot(snapshot_id, timeout_s=_REMOVE_TIMEOUT_S)
        except WrennError as error:
            _log.warning(
                "snapshot not removed yet",
                extra={"snapshot_id": str(snapshot_id), "cause": error.message},
            )
            return False
        return True


def lease_lost() -> Unavailable:
    """Build the error for a snapshot whose lease expired and that was taken over for removal."""
    return Unavailable("It took too long and was taken back. Try again.")
