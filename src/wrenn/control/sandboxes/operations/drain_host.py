"""Pauses or moves the sandboxes of a host that is drained, some at a time, and tells how far that is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

from wrenn.base.errors import NoCapacity, NotFound, Unavailable
from wrenn.base.ids import HostId, SandboxId
from wrenn.control.db import Database, Hints, Transaction
from wrenn.control.sandboxes.operations import drain_store
from wrenn.control.sandboxes.operations.capacity import Capacity
from wrenn.control.sandboxes.operations.move import choose_target
from wrenn.control.sandboxes.reconcile.reconciler import Reconciler
from wrenn.control.sandboxes.records import Sandbox
from wrenn.control.sandboxes.state import State

_AT_ONCE: Final = 16
"""Sandboxes of one host that are being paused at a time, so that pauses that people ask for, and other hosts, are not held up."""
_MOVES_AT_ONCE: Final = 4
"""Sandboxes of one host that are being moved at a time: its agent uploads as many at once."""
_FAILURES_SHOWN: Final = 100


@dataclass(frozen=True, slots=True)
class FailedSandbox:
    """A sandbox that could not be paused or moved, and stays as it is."""

    sandbox_id: SandboxId
    code: str
    reason: str


@dataclass(frozen=True, slots=True)
class DrainProgress:
    """How many sandboxes of a host are in which phase (`control.hosts.views.DrainedSandboxes`), and which could not be paused or moved.

    `untried`: paused ones that are still to be moved.
    """

    starting: int = 0
    running: int = 0
    pausing: int = 0
    moving: int = 0
    stopping: int = 0
    missing: int = 0
    paused: int = 0
    untried: int = 0
    failures: Sequence[FailedSandbox] = field(default=())

    @property
    def is_done(self) -> bool:
        """Whether none is in memory, or may be, and none is still to be moved."""
        in_memory = self.starting or self.running or self.pausing or self.stopping or self.missing
        return not (in_memory or self.moving or self.untried)


class HostDrains:
    """Pauses and moves the sandboxes of hosts that are drained."""

    def __init__(
        self, *, database: Database, hints: Hints, reconciler: Reconciler, capacity: Capacity
    ) -> None:
        self._database = database
        self._hints = hints
        self._reconciler = reconciler
        self._capacity = capacity

    async def progress(
        self, host_id: HostId, *, with_failures: bool = False, moves: bool = False
    ) -> DrainProgress:
        """Count the sandboxes of a host. `with_failures`: also name those that could not be paused, or with `moves` moved."""
        counts = await drain_store.count_phases(self._database, host_id)
        failures = (
            await drain_store.failed(self._database, host_id, limit=_FAILURES_SHOWN, paused=moves)
            if with_failures
            else []
        )
        untried = await drain_store.count_untried(self._database, host_id) if moves else 0
        return DrainProgress(**counts, untried=untried, failures=[FailedSandbox(*each) for each in failures])

    async def move_next(self, host_id: HostId) -> bool:
        """Have the reconciler move the next sandboxes of the host to others, unless enough are being moved; returns whether there were any.

        What no other host can take stays as it is, with the reason, and is tried again later; nothing is forced.
        """
        found = await drain_store.next_to_move(self._database, host_id, at_once=_MOVES_AT_ONCE)
        for sandbox in found:
            try:
                is_moving = await self._capacity.transaction(
                    lambda tx, sandbox=sandbox: self._begin_move(tx, sandbox)
                )
            except (NoCapacity, NotFound, Unavailable) as error:
                await drain_store.note_not_moved(self._database, self._hints, sandbox, error)
                continue
            if is_moving:
                self._reconciler.wake()
        return bool(found)

    async def _begin_move(self, tx: Transaction, sandbox: Sandbox) -> bool:
        admission = await self._capacity.lock_and_read(tx, sandbox.team_id)
        resumes = sandbox.status is State.RUNNING
        host = await choose_target(admission, sandbox, None, None, resumes=resumes)
        return await drain_store.set_moving(tx, self._hints, sandbox, host.host_id)

    async def pause_next(self, host_id: HostId) -> None:
        """Have the reconciler pause the next running sandboxes of the host, unless enough are being paused.

        What cannot be paused runs on and is tried again later; nothing is forced.
        """

        async def pause(tx: Transaction) -> bool:
            return await drain_store.try_lock(tx) and await drain_store.set_desired_paused_on_host(
                tx, self._hints, host_id, at_once=_AT_ONCE
            )

        if await self._database.transaction(pause):
            self._reconciler.wake()
