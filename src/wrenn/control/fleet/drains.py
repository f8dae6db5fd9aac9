"""Draining hosts: nothing is started there any more, and by policy the sandboxes are waited for, paused or moved.

The row of the host says that it is drained, and every placement reads it. So a drain outlives control planes and agents, and
any replica may go on with it: one run of the loop looks at all draining hosts again.
"""

from __future__ import annotations

from typing import Final

from wrenn.base.faults import fault_point
from wrenn.base.loops import Loop
from wrenn.control.audit import Scope, Status, record
from wrenn.control.auth import Member
from wrenn.control.db import Database, Transaction
from wrenn.control.fleet.service import Fleet, expect_admin, lock_host
from wrenn.control.hosts import DrainPolicy, HostRecord, drain_store, host_action
from wrenn.control.sandboxes import Capacity, DrainProgress, HostDrains

_IDLE_S: Final = 10.0
"""While no host is drained. The replica that takes a request for a drain looks at once."""
_TIMER_S: Final = 2.0
_BUSY_S: Final = 0.25
"""While a host has sandboxes that are to be paused."""


class Drains:
    """Drains hosts and takes that back; its loop pauses the sandboxes and finds out when a host is drained."""

    def __init__(
        self, *, database: Database, fleet: Fleet, capacity: Capacity, sandboxes: HostDrains
    ) -> None:
        self._database = database
        self._fleet = fleet
        self._capacity = capacity
        self._sandboxes = sandboxes
        self.loop = Loop("drain hosts")

    async def get(self, member: Member, text_id: str) -> tuple[HostRecord, DrainProgress | None]:
        """Return a host, and how far its drain is; None: it is not drained.

        Raises:
            NotFound: there is no such host, or the user may not see it.
        """
        host = await self._fleet.get(member, text_id)
        if host.drain is None:
            return host, None
        policy = host.drain.policy
        return host, await self._sandboxes.progress(
            host.host_id, with_failures=policy is not DrainPolicy.WAIT, moves=policy is DrainPolicy.MOVE
        )

    async def drain(self, member: Member, text_id: str, policy: DrainPolicy) -> None:
        """Start nothing on the host any more, and by `policy` wait for its sandboxes, pause or move them. Does nothing if it is so.

        What is placed on the host before is committed when this returns, and is drained too.

        Raises:
            NotFound, Forbidden.
        """
        host = await self._fleet.get(member, text_id)
        expect_admin(member, host)

        async def begin(tx: Transaction) -> None:
            # First, as for creates: afterwards nothing is placed on the host.
            await self._capacity.lock(tx)
            now = await lock_host(tx, host.host_id)
            if now.drain is None or now.drain.policy is not policy:
                await drain_store.begin(tx, now.host_id, policy)
                await _record(tx, member, now, "drain", {"policy": policy.value})
            await fault_point("control.host_drain.before_commit")

        await self._capacity.transaction(begin)
        await fault_point("control.host_drain.after_commit")
        self.loop.wake()

    async def uncordon(self, member: Member, text_id: str) -> None:
        """Use the host again. Does nothing if it is not drained. What was paused stays paused until somebody resumes it.

        Raises:
            NotFound, Forbidden.
        """
        host = await self._fleet.get(member, text_id)
        expect_admin(member, host)

        async def end(tx: Transaction) -> None:
            now = await lock_host(tx, host.host_id)
            if now.drain is not None:
                await drain_store.end(tx, now.host_id)
                await _record(tx, member, now, "uncordon", {})

        await self._database.transaction(end)

    async def run(self) -> None:
        """Go on with the drains of all hosts until cancelled."""
        await self.loop.run(self.step_once, every_s=_IDLE_S)

    async def step_once(self) -> float | None:
        """Go on with all drains; returns the seconds until there may be more to do."""
        is_busy = False
        draining = await drain_store.draining(self._database)
        for host in draining:
            moves = host.policy is DrainPolicy.MOVE
            progress = await self._sandboxes.progress(host.host_id, moves=moves)
            if progress.is_done is not host.is_drained:
                await drain_store.mark_drained(self._database, host.host_id, is_drained=progress.is_done)
            if host.policy is DrainPolicy.PAUSE and not progress.is_done:
                is_busy = True
                if progress.running:
                    await self._sandboxes.pause_next(host.host_id)
            if moves and (progress.running or progress.paused):
                is_busy |= await self._sandboxes.move_next(host.host_id) or not progress.is_done
        if is_busy:
            return _BUSY_S
        return _TIMER_S if draining else None


async def _record(
    tx: Transaction, member: Member, host: HostRecord, action: str, facts: dict[str, str]
) -> None:
    scope = Scope.ADMIN if host.team_id is None else Scope.TEAM
    entry = host_action(action, Status.INFO, scope, facts=facts)
    await record(tx, host.log_team, member.actor, entry, str(host.host_id))
