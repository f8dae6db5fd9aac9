"""Reads the free capacity of hosts and the team's quota, in the caller's transaction under the placement lock.

Two requests never count the same capacity twice. The checks themselves are `placement.choose_host` and
`quotas.QuotaStatus.require_within_quota`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from typing import TypeVar

from wrenn.base.errors import NoCapacity, NotFound, Unavailable
from wrenn.base.ids import HostId, TeamId
from wrenn.control.db import Database, Transaction
from wrenn.control.hosts import Host, Monitor
from wrenn.control.placement import Overcommit, Verdict, Wanted, check_larger_disk, choose_host, judge
from wrenn.control.quotas import Limits, QuotaStatus, Usage
from wrenn.control.sandboxes.operations import placement_store, quota_status_store
from wrenn.control.snapshots import find_template

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Admission:
    """Decides, under the placement lock, whether and where a team's sandbox may be; valid until the transaction ends."""

    tx: Transaction
    team_id: TeamId
    team: QuotaStatus
    overcommit: Overcommit

    async def choose(self, wanted: Wanted) -> Host:
        """Choose a host with enough free capacity.

        Raises:
            NoCapacity, NotFound, Unavailable: as `placement.refusal`.
        """
        found = await placement_store.host_loads(self.tx, team_id=self.team_id, template=wanted.template)
        wanted = replace(wanted, team_id=self.team_id, on_own_hosts=found.on_own_hosts)
        return choose_host(found.hosts, found.loads, wanted, self.overcommit)

    async def require_larger_disk(self, host_id: HostId, *, more_mb: int) -> None:
        """Return if a disk on this host may grow by `more_mb`.

        Raises:
            NoCapacity: it may not.
        """
        found = await placement_store.host_loads(self.tx, team_id=self.team_id, template="")
        host = next(host for host in found.hosts if host.host_id == host_id)
        check_larger_disk(host, found.loads[host_id], more_mb, self.overcommit)


def added_usage(vcpus: int, memory_mb: int, *, count: int = 1, new: int = 0) -> Usage:
    """Compute what `count` running sandboxes of this size add to a team's usage; `new` of them are created now, the others resumed."""
    return Usage(
        running_sandboxes=count,
        total_sandboxes=new,
        vcpus=count * vcpus,
        memory_mb=count * memory_mb,
        creates_per_second=new,
    )


class Capacity:
    """Reads the capacity of hosts and the quota of a team under the placement lock. `defaults`: the limits of a team that has none of its own."""

    def __init__(
        self, database: Database, monitor: Monitor, overcommit: Overcommit, defaults: Limits
    ) -> None:
        self._database = database
        self._monitor = monitor
        self._overcommit = overcommit
        self._defaults = defaults
        # The placement lock admits one transaction at a time anyway; waiting here needs no connection.
        self._one_at_a_time = asyncio.Lock()

    async def transaction(self, work: Callable[[Transaction], Awaitable[T]]) -> T:
        """Run a transaction that calls `lock_and_read` or `lock`; this replica runs one at a time."""
        async with self._one_at_a_time:
            return await self._database.transaction(work)

    async def transaction_asking_hosts(self, work: Callable[[Transaction], Awaitable[T]]) -> T:
        """Like `transaction`; if there is no host for the request, ask all hosts for their state and run it once more.

        The stored state of the hosts may be some seconds old: a host may be back, or have a new template. Requests share
        that look at the hosts (`Monitor.look_recently`).
        """
        try:
            return await self.transaction(work)
        except (NoCapacity, NotFound, Unavailable):
            await self._monitor.look_recently()
            return await self.transaction(work)

    @staticmethod
    async def lock(tx: Transaction) -> None:
        """Take the placement lock: nothing is placed on any host until this transaction ends. Before any other lock."""
        await placement_store.lock_placement(tx)

    async def lock_and_read(self, tx: Transaction, team_id: TeamId) -> Admission:
        """Take the placement lock and read the team's quota; nobody else is admitted until the transaction ends."""
        await placement_store.lock_placement(tx)
        found = (await tx.execute(quota_status_store.QUOTA_STATUS, {"team_id": team_id.value})).one()
        return Admission(
            tx, team_id, quota_status_store.quota_status_of(found, self._defaults), self._overcommit
        )

    async def explain(self, tx: Transaction, wanted: Wanted) -> tuple[Wanted, list[Verdict]]:
        """Say for each host which filter keeps this sandbox from it, or how well it suits; nothing is reserved.

        With what was asked for, as it would be placed: a sandbox from a snapshot has the snapshot's size, and its host.
        """
        template = (
            None if wanted.team_id is None else await find_template(tx, wanted.team_id, wanted.template)
        )
        if template is not None:
            wanted = replace(
                wanted,
                vcpus=template.vcpus,
                memory_mb=template.memory_mb,
                disk_mb=template.disk_size_mb,
                host_id=template.host_id,
            )
        found = await placement_store.host_loads(tx, team_id=wanted.team_id, template=wanted.template)
        wanted = replace(wanted, on_own_hosts=found.on_own_hosts)
        return wanted, judge(found.hosts, found.loads, wanted, self._overcommit)

    async def quota_status(self, team_id: TeamId) -> QuotaStatus:
        """Read a team's limits and usage without a lock, for display."""
        found = await self._database.execute(
            quota_status_store.QUOTA_STATUS, {"team_id": team_id.value}, repeatable=True
        )
        return quota_status_store.quota_status_of(found.one(), self._defaults)
