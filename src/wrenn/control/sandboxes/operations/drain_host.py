"""Pauses the sandboxes of a host that is drained, some at a time, and tells how far that is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

from wrenn.base.ids import HostId, SandboxId
from wrenn.control.db import Database, Hints, Transaction
from wrenn.control.sandboxes.operations import drain_store
from wrenn.control.sandboxes.reconcile.reconciler import Reconciler

_AT_ONCE: Final = 16
"""Sandboxes of one host that are being paused at a time, so that pauses that people ask for, and other hosts, are not held up."""
_FAILURES_SHOWN: Final = 100


@dataclass(frozen=True, slots=True)
class FailedPause:
    """A sandbox that could not be paused, and runs on."""

    sandbox_id: SandboxId
    code: str
    reason: str


@dataclass(frozen=True, slots=True)
class DrainProgress:
    """How many sandboxes of a host are in which phase (`control.hosts.views.DrainedSandboxes`), and which could not be paused."""

    starting: int = 0
    running: int = 0
    pausing: int = 0
    stopping: int = 0
    missing: int = 0
    paused: int = 0
    failures: Sequence[FailedPause] = field(default=())

    @property
    def is_done(self) -> bool:
        """Whether none is in memory, or may be."""
        return not (self.starting or self.running or self.pausing or self.stopping or self.missing)


class HostDrains:
    """Pauses the sandboxes of hosts that are drained."""

    def __init__(self, *, database: Database, hints: Hints, reconciler: Reconciler) -> None:
        self._database = database
        self._hints = hints
        self._reconciler = reconciler

    async def progress(self, host_id: HostId, *, with_failures: bool = False) -> DrainProgress:
        """Count the sandboxes of a host. `with_failures`: also name those that could not be paused."""
        counts = await drain_store.count_phases(self._database, host_id)
        failures = (
            await drain_store.not_paused(self._database, host_id, limit=_FAILURES_SHOWN)
            if with_failures
            else []
        )
        return DrainProgress(**counts, failures=[FailedPause(*each) for each in failures])

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
