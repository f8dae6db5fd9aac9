"""Carries out desired states: leases due sandboxes, works on each, and applies expiry.

A step (`steps.py`) may be done twice, by one replica or by two.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Collection
from typing import Final

from wrenn.base.loops import Loop
from wrenn.base.tasks import OwnedTasks
from wrenn.control.db import Database, HeldLeases, Hints
from wrenn.control.hosts import HostClients
from wrenn.control.sandboxes.changes import ChangeNotifier
from wrenn.control.sandboxes.reconcile import work_store
from wrenn.control.sandboxes.reconcile.back_off import BackOff
from wrenn.control.sandboxes.reconcile.expiry import Expiry
from wrenn.control.sandboxes.reconcile.move import MoveStep
from wrenn.control.sandboxes.reconcile.places import find_move_slots, find_slots
from wrenn.control.sandboxes.reconcile.steps import ImageFor, PlaceAgain, ReconcilerSettings, Steps
from wrenn.control.sandboxes.reconcile.work_store import WorkSlots
from wrenn.control.sandboxes.records import Work

_log = logging.getLogger(__name__)

_TIMER_S: Final = 2.0
_SHORTEST_WAIT_S: Final = 0.005
_AFTER_FAILURE_S: Final = 0.25


class Reconciler:
    """Leases sandboxes whose desired state has to be carried out and works on them. `owner` names this replica's leases."""

    def __init__(
        self,
        *,
        database: Database,
        hints: Hints,
        clients: HostClients,
        changes: ChangeNotifier,
        owner: str,
        settings: ReconcilerSettings,
        back_off: BackOff,
        place_again: PlaceAgain,
        move: MoveStep,
        image_for: ImageFor,
    ) -> None:
        self._database = database
        self._changes = changes
        self.leases = HeldLeases(database, work_store.LEASES, owner=owner, lease_s=settings.lease_s)
        self._steps = Steps(
            database=database,
            hints=hints,
            clients=clients,
            owner=owner,
            settings=settings,
            back_off=back_off,
            place_again=place_again,
            move=move,
            image_for=image_for,
        )
        self._expiry = Expiry(database, hints)
        self.loop = Loop("reconcile sandboxes")
        self._working: dict[asyncio.Task[object], Work] = {}
        self._tasks = OwnedTasks()

    def wake(self) -> None:
        """Look for due work now."""
        self.loop.wake()

    async def run(self) -> None:
        """Work until cancelled. Work in progress is then left until its lease expires."""
        try:
            await self.loop.run(self._work, every_s=_TIMER_S, after_failure_s=_AFTER_FAILURE_S)
        finally:
            await self._tasks.close()

    async def _work(self) -> float | None:
        """Start on what is due. Returns in how many seconds something expires."""
        await self.reconcile_once()
        next_s = await self._expiry.apply_once()
        return None if next_s is None else max(_SHORTEST_WAIT_S, next_s)

    async def reconcile_once(self) -> None:
        """Lease due work and start on it."""
        await self._take(find_slots)
        await self._take(find_move_slots)

    async def _take(self, find: Callable[[Collection[Work]], WorkSlots]) -> None:
        """Lease due work and start on it, until there is none that a place is free for."""
        while (free := find(self._working.values())).limit:
            taken = await work_store.take_due(
                self._database, owner=self.leases.owner, lease_s=self.leases.lease_s, slots=free
            )
            for work in taken:
                task = self._tasks.start(f"work on {work.sandbox_id}", self._work_on(work))
                self._working[task] = work
                task.add_done_callback(self._released)
            if len(taken) < free.limit:
                return

    def _released(self, task: asyncio.Task[object]) -> None:
        del self._working[task]
        self.loop.wake()

    async def _work_on(self, work: Work) -> None:
        try:
            with self.leases.renewed(work.sandbox_id.value):
                again_s = await self._steps.do(work)
        finally:
            self._changes.notify(work.sandbox_id)
        if again_s is not None:
            self._tasks.start("wake for a retry", self._wake_after(again_s))

    async def _wake_after(self, pause_s: float) -> None:
        await asyncio.sleep(pause_s)
        self.wake()
