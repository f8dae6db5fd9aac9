"""Suspends the sandboxes that use too much of the host's disk; the rules are in `disk_rules.py`."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine, Iterable
from functools import partial
from typing import Any, Final

from wrenn.agent.layout import Layout
from wrenn.agent.sandboxes.disk_rules import (
    MAX_CHECK_INTERVAL_S,
    DiskLimits,
    next_check_s,
    reason_to_suspend,
)
from wrenn.agent.sandboxes.disk_usage import DiskUsage
from wrenn.agent.sandboxes.entry import Entry
from wrenn.agent.sandboxes.running import RunningSandbox
from wrenn.base.errors import WrennError
from wrenn.base.ids import SandboxId
from wrenn.base.loops import Loop
from wrenn.linux.disk_space import free_b
from wrenn.linux.threads import DISK_WATCH, run_to_end
from wrenn.vm import DiskChain

_log = logging.getLogger(__name__)

_SUSPEND_TIMEOUT_S: Final = 2.0


class DiskWatch:
    """Suspends VMs by the disk space that they use, and unsuspends them when there is space."""

    def __init__(
        self,
        *,
        layout: Layout,
        disks: DiskChain,
        limits: DiskLimits,
        entries: Callable[[], Iterable[Entry]],
        on_unsuspended: Callable[[], None],
    ) -> None:
        self._data_dir = layout.data_dir
        self._disks = disks
        self._usage = DiskUsage(layout, disks)
        self._limits = limits
        self._entries = entries
        self._on_unsuspended = on_unsuspended
        self._sizes_b: dict[SandboxId, int] = {}
        """What sandboxes used when the disk was last above its reserve."""
        self._lock = asyncio.Lock()
        self._loop = Loop("suspend sandboxes by their disk use")

    async def run(self) -> None:
        """Check again and again, until cancelled."""
        await self._loop.run(self.check, every_s=MAX_CHECK_INTERVAL_S)

    async def check(self) -> float:
        """Check all sandboxes once; returns the seconds until the next check is due."""
        free = free_b(self._data_dir)
        async with self._lock:
            await self._suspend_by_use(free)
        return next_check_s(free, self._limits.reserve_b)

    async def _suspend_by_use(self, free: int) -> None:
        entries = [entry for entry in self._entries() if entry.running is not None and entry.removing is None]
        # In a thread: on a busy disk, each file takes time.
        records = [entry.record for entry in entries]
        self._usage.forget_all_but(records)
        sizes = await run_to_end(partial(self._usage.measure, records), pool=DISK_WATCH)
        if free >= self._limits.reserve_b:
            self._sizes_b = sizes
        changes: list[Coroutine[Any, Any, None]] = []
        for entry in entries:
            running = entry.running
            if running is None or entry.removing is not None:
                continue
            used = sizes[entry.sandbox_id]
            reason = reason_to_suspend(
                free_b=free,
                used_b=used,
                share_b=self._limits.share_b(entry.record),
                grown_b=used - self._sizes_b.setdefault(entry.sandbox_id, used),
                limits=self._limits,
                suspended=bool(running.suspend_reason),
                waits=self._waits(entry),
            )
            if bool(reason) != bool(running.suspend_reason):
                changes.append(self._set_suspended(entry, running, reason))
            else:
                running.suspend_reason = reason  # its numbers may have changed
        await asyncio.gather(*changes, return_exceptions=True)

    def _waits(self, entry: Entry) -> bool:
        return self._disks.waits_for_space(entry.record.layers[0])

    async def _set_suspended(self, entry: Entry, running: RunningSandbox, reason: str) -> None:
        """Suspend the VM for this reason; with an empty reason, unsuspend it."""
        fields = {"sandbox_id": str(entry.sandbox_id), "reason": reason}
        if not reason and entry.lock.locked():
            return  # the operation may need it suspended; the next check comes soon
        before, running.suspend_reason = running.suspend_reason, reason
        try:
            async with asyncio.timeout(_SUSPEND_TIMEOUT_S):
                if reason:
                    # Without the lock: its holder may let the guest write for seconds. Suspending twice is harmless.
                    # Nothing is flushed, which would take as long as the disk does: neither would the deadline hold, nor would others be
                    # looked at meanwhile.
                    await running.vm.suspend(flush=False)
                else:
                    async with entry.locked():
                        await running.vm.unsuspend()
        except (WrennError, TimeoutError) as error:
            # A VMM whose writes wait does not answer, and its sandbox stands still all the same. Else the next check tries again.
            if not (reason and self._waits(entry)):
                running.suspend_reason = before
            _log.warning("sandbox is not suspended", extra={**fields, "cause": str(error)})
            return
        _log.warning("sandbox suspended" if reason else "sandbox unsuspended", extra=fields)
        if not reason:
            self._on_unsuspended()
