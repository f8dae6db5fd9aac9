"""Finds room for sandboxes, on hosts and within the team's quota, in the caller's transaction and under the placement lock.

Two requests never count the same room twice.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

from wrenn.base.ids import HostId, TeamId
from wrenn.control.db import Database, Transaction
from wrenn.control.hosts import Host, all_hosts_in
from wrenn.control.placement import Load, Overcommit, Wanted, check_larger_disk, choose_host
from wrenn.control.quotas import Limits, Standing, Usage
from wrenn.control.sandboxes.operations import placement_store

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Census:
    """The hosts, what is promised on each, and what the team may have; true until the transaction ends."""

    hosts: Sequence[Host]
    loads: Mapping[HostId, Load]
    overcommit: Overcommit
    team: Standing

    def choose(self, wanted: Wanted) -> Host:
        """A host that has room.

        Raises:
            NoCapacity, NotFound, Unavailable: as `choose_host`.
        """
        return choose_host(self.hosts, self.loads, wanted, self.overcommit)

    def expect_larger_disk(self, host_id: HostId, *, more_mb: int) -> None:
        """Return if a disk on this host may become so much larger.

        Raises:
            NoCapacity: it may not.
        """
        host = next(host for host in self.hosts if host.host_id == host_id)
        check_larger_disk(host, self.loads.get(host_id, Load()), more_mb, self.overcommit)


def more_running(vcpus: int, memory_mb: int, *, count: int = 1, made: int = 0) -> Usage:
    """What so many sandboxes of this shape add to a team's usage when they run; `made` of them are new."""
    return Usage(
        running_sandboxes=count,
        total_sandboxes=made,
        vcpus=count * vcpus,
        memory_mb=count * memory_mb,
        creates_per_second=made,
    )


class Room:
    """See the module head. `defaults`: what a team may have that has no limits of its own."""

    def __init__(self, database: Database, overcommit: Overcommit, defaults: Limits) -> None:
        self._database = database
        self._overcommit = overcommit
        self._defaults = defaults
        # The placement lock lets one go on at a time anyway; who waits here holds no connection meanwhile.
        self._turn = asyncio.Lock()

    async def transaction(self, work: Callable[[Transaction], Awaitable[T]]) -> T:
        """Run a transaction that counts, as `Database.transaction`; those of this replica one after the other."""
        async with self._turn:
            return await self._database.transaction(work)

    async def count(self, tx: Transaction, team_id: TeamId) -> Census:
        """What there is now; nobody else counts until the transaction ends."""
        await placement_store.lock_placement(tx)
        hosts = await all_hosts_in(tx)
        loads = await placement_store.loads(tx)
        found = (await tx.execute(placement_store.STANDING, {"team_id": team_id.value})).one()
        return Census(hosts, loads, self._overcommit, placement_store.standing_of(found, self._defaults))

    async def standing(self, team_id: TeamId) -> Standing:
        """What the team may have and has, to be looked at: others go on meanwhile."""
        found = await self._database.execute(
            placement_store.STANDING, {"team_id": team_id.value}, repeatable=True
        )
        return placement_store.standing_of(found.one(), self._defaults)
