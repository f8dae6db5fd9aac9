"""Regular maintenance of sandboxes: a VM that stopped on a full disk continues when there is space, and a pause whose last steps failed is finished."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable
from pathlib import Path
from typing import Final

from wrenn.agent.sandboxes.entry import Entry
from wrenn.agent.sandboxes.journal import State
from wrenn.agent.sandboxes.pause import thaw_guest
from wrenn.base.loops import Loop
from wrenn.linux.disk_space import free_b

_log = logging.getLogger(__name__)

_INTERVAL_S: Final = 2.0
_TIMEOUT_S: Final = 5.0
_FINISH_TIMEOUT_S: Final = 15.0
"""More than a VMM gets to end."""
_CONCURRENCY: Final = 16
"""VMs that are maintained at a time."""


class VmMaintenance:
    """Maintains all sandboxes that are not being changed. `finish_pause` repeats the last steps of a pause, if that is to be done."""

    def __init__(
        self,
        *,
        data_dir: Path,
        reserve_b: int,
        entries: Callable[[], Iterable[Entry]],
        finish_pause: Callable[[Entry], Awaitable[object]],
    ) -> None:
        self._finish_pause = finish_pause
        self._data_dir = data_dir
        self._reserve_b = reserve_b
        self._entries = entries
        self._loop = Loop("maintain VMs")

    async def run(self) -> None:
        """Maintain each VM every few seconds, until cancelled."""
        await self._loop.run(self._maintain_all, every_s=_INTERVAL_S)

    def wake(self) -> None:
        """Maintain all VMs now: a guest that could not be thawed while its VM was suspended need not wait."""
        self._loop.wake()

    async def _maintain_all(self) -> None:
        has_space = free_b(self._data_dir) >= self._reserve_b // 2
        entries = list(self._entries())
        for start in range(0, len(entries), _CONCURRENCY):
            some = entries[start : start + _CONCURRENCY]
            # A removal cancels the maintenance of its sandbox; that is no error of the others.
            runs = (self._maintain(entry, may_unsuspend=has_space) for entry in some)
            await asyncio.gather(*runs, return_exceptions=True)

    async def _maintain(self, entry: Entry, *, may_unsuspend: bool) -> None:
        # An operation may have stopped the VM on purpose.
        if entry.removing is not None or entry.lock.locked():
            return
        if entry.record.state is State.PAUSING:
            try:
                async with asyncio.timeout(_FINISH_TIMEOUT_S):
                    await self._finish_pause(entry)
            except Exception as error:  # noqa: BLE001 - tried again
                fields = {"sandbox_id": str(entry.sandbox_id), "reason": repr(error)}
                _log.warning("pause is not finished", extra=fields)
        else:
            await _maintain_vm(entry, may_unsuspend=may_unsuspend)


async def _maintain_vm(entry: Entry, *, may_unsuspend: bool) -> None:
    if entry.running is None:
        return
    fields: dict[str, object] = {"sandbox_id": str(entry.sandbox_id)}
    try:
        async with entry.locked(), asyncio.timeout(_TIMEOUT_S):
            may_unsuspend = may_unsuspend and not entry.running.suspend_reason
            if await entry.running.vm.maintain(may_unsuspend=may_unsuspend):
                _log.warning("sandbox continued after it had stopped", extra=fields)
            if may_unsuspend and entry.running.suspend_reason:
                # It was suspended meanwhile, and this maintenance may have unsuspended it after that.
                await entry.running.vm.suspend(flush=False)
            if entry.running.guest_frozen and not entry.running.suspend_reason:
                await thaw_guest(entry.running)
    except Exception as error:  # noqa: BLE001 - one VMM that misbehaves must not end the maintenance of the others
        _log.info("VMM does not answer", extra={**fields, "reason": repr(error)})
