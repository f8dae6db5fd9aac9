"""Removes unwanted snapshots: abandoned by a replica that died, not removed by their host yet, without a row, or fetched and not used.

The rows are read first, then the host is asked. May run on any number of replicas at once.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Final

from wrenn.base.clock import Clock
from wrenn.base.errors import DeadlineExceeded, Unavailable, WrennError
from wrenn.base.ids import SnapshotId
from wrenn.base.loops import Loop
from wrenn.control.db import Database, Transaction
from wrenn.control.hosts import (
    REMOVALS_A_ROUND,
    FirstMet,
    Host,
    HostClients,
    HostRounds,
    HostSnapshot,
    RecentHosts,
    Visits,
    all_hosts,
)
from wrenn.control.snapshots import store
from wrenn.control.snapshots.copies_limit import SnapshotCopy, copies_beyond, limit_of
from wrenn.control.snapshots.lifecycle import SnapshotLifecycle
from wrenn.control.snapshots.records import StoredSnapshot
from wrenn.control.templates import TemplateStatus

_log = logging.getLogger(__name__)

_LIST_TIMEOUT_S: Final = 10.0
_LONGEST_S: Final = 3600.0
"""A host is swept at least so often. Its digest covers its snapshots, and snapshots that are to be removed make it due."""

_IN_USE_S: Final = 300.0
"""A copy that was needed so lately stays, whatever copies take: the sandbox that needs it may not have been started from it yet."""

RemoveCopies = Callable[[Transaction, SnapshotId], Awaitable[None]]
"""Have the copies of an abandoned fork removed, in the transaction that gives up its snapshot."""


class SnapshotSweep:
    """Removes snapshots that were abandoned, are being removed, or have no row in the database.

    `copies_b`: what the snapshots that a host fetched may take of its disk; 0: no limit.
    """

    def __init__(
        self,
        *,
        database: Database,
        hosts: RecentHosts,
        clients: HostClients,
        lifecycle: SnapshotLifecycle,
        clock: Clock,
        remove_copies: RemoveCopies,
        interval_s: float,
        unknown_grace_s: float,
        copies_b: int,
    ) -> None:
        self._database = database
        self._hosts = hosts
        self._clients = clients
        self._lifecycle = lifecycle
        self._clock = clock
        self._remove_copies = remove_copies
        self._interval_s = interval_s
        self._unknown_grace_s = unknown_grace_s
        self._copies_b = copies_b
        self.loop = Loop("sweep snapshots")
        self._rounds = HostRounds("sweep snapshots")
        # Snapshots that are to be removed, and those without a row on any host.
        self._unwanted: FirstMet[SnapshotId] = FirstMet()
        self._visits = Visits(clock, self._version, longest_s=_LONGEST_S)

    async def run(self) -> None:
        """Sweep those hosts at an interval where there may be something to do, until cancelled."""
        try:
            await self.loop.run(self._sweep_due, every_s=self._interval_s)
        finally:
            await self._rounds.close()

    async def sweep_once(self) -> None:
        """Sweep all hosts now; as `HostRounds.run`."""
        await self._take_back_abandoned()
        hosts = await all_hosts(self._database)
        self._unwanted.keep_hosts(hosts)
        self._rounds.keep_hosts(hosts)
        await self._rounds.run(hosts, self._sweep)

    async def _sweep_due(self) -> None:
        await self._take_back_abandoned()
        for host_id in await store.hosts_with_removals(self._database):
            self._visits.unsettle(host_id)
        hosts = await self._hosts.read()
        self._unwanted.keep_hosts(hosts)
        self._rounds.keep_hosts(hosts)
        await self._rounds.run(self._visits.due([host for host in hosts if host.is_reachable]), self._sweep)

    def _version(self, host: Host) -> object:
        return host.inventory, self._clients.at(host.endpoint).failures

    async def _take_back_abandoned(self) -> None:
        for snapshot_id in await self._database.transaction(self._retire_abandoned):
            _log.warning("abandoned snapshot taken back", extra={"snapshot_id": str(snapshot_id)})

    async def _retire_abandoned(self, tx: Transaction) -> list[SnapshotId]:
        abandoned = await store.retire_abandoned(tx)
        for snapshot_id, is_forks in abandoned:
            if is_forks:
                await self._remove_copies(tx, snapshot_id)
        await store.delete_on_deleted_hosts(tx)
        return [snapshot_id for snapshot_id, _ in abandoned]

    async def _sweep(self, host: Host) -> None:
        version = self._visits.version_of(host)
        self._visits.unsettle(host.host_id)
        rows = {stored.snapshot_id: stored for stored in await store.on_host(self._database, host.host_id)}
        client = self._clients.at(host.endpoint)
        reported: Sequence[HostSnapshot] = ()
        is_listed = False
        try:
            reported = await client.list_snapshots(timeout_s=_LIST_TIMEOUT_S)
            is_listed = True
        except WrennError as error:
            if isinstance(error, Unavailable | DeadlineExceeded):
                return
            # Those that are to be removed need no list: one that is too long must get shorter.
            _log.warning(
                "host did not list its snapshots",
                extra={"host_id": str(host.host_id), "cause": error.message},
            )
        # The row may name another host: the former one of an agent that registered again, which has the files all the same.
        without_row = {snapshot.snapshot_id for snapshot in reported} - rows.keys()
        without_row -= await store.existing_among(self._database, without_row)
        leaving = self._copies_to_remove(host, reported, rows)
        idle = {copy.snapshot_id for copy in leaving if copy.idle_s >= _IN_USE_S}
        removing = [
            stored.snapshot_id
            for stored in rows.values()
            if stored.status is TemplateStatus.REMOVING or stored.is_unused or stored.snapshot_id in idle
        ]
        now = self._clock.monotonic()
        first_met = self._unwanted.update(host.host_id, [*removing, *without_row], now=now)
        due = [
            snapshot_id
            for snapshot_id, first in first_met.items()
            if snapshot_id in rows or now - first >= self._unknown_grace_s
        ]
        for snapshot_id in due[:REMOVALS_A_ROUND]:
            self._unwanted.postpone(host.host_id, snapshot_id)
            if snapshot_id in rows and rows[snapshot_id].status is TemplateStatus.REMOVING:
                await self._lifecycle.remove(rows[snapshot_id])
            elif snapshot_id in rows:
                await self._lifecycle.remove_copy(rows[snapshot_id])
            elif await self._lifecycle.remove_from_host(host.endpoint, snapshot_id):
                _log.warning("unknown snapshot removed from host", extra={"snapshot_id": str(snapshot_id)})
                self._unwanted.forget(host.host_id, snapshot_id)
        # Those that were used a moment ago are looked at again.
        if is_listed and not first_met and not leaving:
            self._visits.settle(host, version)

    def _copies_to_remove(
        self, host: Host, reported: Sequence[HostSnapshot], rows: Mapping[SnapshotId, StoredSnapshot]
    ) -> list[SnapshotCopy]:
        copies = [
            SnapshotCopy(each.snapshot_id, each.size_b, stored.idle_s, stored.layers)
            for each in reported
            if (stored := rows.get(each.snapshot_id)) is not None and stored.is_copy
        ]
        limit_b = limit_of(copies, self._copies_b, disk_b=host.disk_b, available_b=host.disk_available_b)
        return copies_beyond(copies, limit_b)
