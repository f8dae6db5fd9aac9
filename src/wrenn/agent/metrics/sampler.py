"""Takes samples of all running sandboxes of this host, in one task.

CPU time, resident memory and network counters are read twice a second. What costs more is read every ten seconds: the
share of memory, the disk, and what the guest says itself.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Final

from wrenn.agent.metrics.outbox import Outbox
from wrenn.agent.metrics.series import Batch, Series
from wrenn.agent.sandboxes.disk_usage import DiskUsage
from wrenn.agent.sandboxes.journal import Record
from wrenn.agent.sandboxes.running import RunningSandbox
from wrenn.base.clock import Clock
from wrenn.base.errors import WrennError
from wrenn.base.faults import fault_point
from wrenn.base.ids import SandboxId
from wrenn.base.loops import Loop
from wrenn.base.tasks import OwnedTasks
from wrenn.base.units import MIB
from wrenn.guest import GuestFigures, read_figures
from wrenn.linux.link_counters import LinkCounters
from wrenn.linux.process_usage import ProcessUsage
from wrenn.linux.threads import run_to_end
from wrenn.protocol.samples import Sample, Tier, merge_samples

_log = logging.getLogger(__name__)

_READ_AT_ONCE: Final = 32
"""Up to so many sandboxes are read by the event loop itself, within a millisecond: a thread would cost more CPU time than that."""
_SLOW_TICKS: Final = 20
"""A slow reading is taken once in so many samples: every ten seconds."""
_SHARE_TICKS: Final = 120
_SHARE_CHANGE_B: Final = MIB
"""Reading the share of memory walks all pages of the VM. As long as its resident memory changes by less than this, that is done
only once in so many samples, every minute: others may have begun or ceased to share."""
_SENT_TICKS: Final = 600
"""The means are given to the control plane once in so many samples, every five minutes: an agent that is killed loses no more."""
_GUEST_TIMEOUT_S: Final = 2.0
_GUESTS: Final = 8
"""Guests that are asked at the same time."""
_GUEST_PROMPT_S: Final = 0.5
_GUEST_SKIPPED: Final = 4
"""A guest that did not answer within that time is left out so many times: such guests must not keep the others waiting."""
_ENDED_RETENTION_S: Final = 60.0
_ENDED: Final = 256
"""Series of sandboxes that run no more stay in memory until the control plane has surely stored them: so long, and so many."""


@dataclass(frozen=True, slots=True)
class SamplerSettings:
    """`interval_s`: between two samples; 0: none are taken. All longer times are multiples of it."""

    interval_s: float = 0.5


@dataclass(frozen=True, slots=True)
class _Reading:
    """What the machine says about a sandbox at one moment; `at_s` by a clock that never goes back."""

    at_s: float
    usage: ProcessUsage
    counters: LinkCounters | None


@dataclass(slots=True, eq=False)
class _Tracked:
    """A sandbox that runs, from its start or resume on.

    Attributes:
        last: the reading before; None: there was none yet.
        mem_pss_b, disk_b, guest: from the last slow reading; None: not known.
        shared_at: number of the sample and resident memory at which `mem_pss_b` was read.
        asking: its guest is being asked, or waits for that.
        skipped: how many times its guest is not asked when it is due.
    """

    record: Record
    running: RunningSandbox
    series: Series
    last: _Reading | None = None
    mem_pss_b: int | None = None
    shared_at: tuple[int, int] | None = None
    disk_b: int | None = None
    guest: GuestFigures | None = None
    asking: bool = False
    skipped: int = 0


class Sampler:
    """Samples all sandboxes and keeps their series. Series of sandboxes that were paused, removed or lost go to the outbox."""

    def __init__(
        self,
        *,
        sandboxes: Callable[[], Sequence[tuple[Record, RunningSandbox | None]]],
        counters: Callable[[int], LinkCounters | None],
        disk_usage: DiskUsage,
        outbox: Outbox,
        clock: Clock,
        settings: SamplerSettings,
    ) -> None:
        self._sandboxes = sandboxes
        self._counters = counters
        self._disk_usage = disk_usage
        self._outbox = outbox
        self._clock = clock
        self._settings = settings
        self._tracked: dict[SandboxId, _Tracked] = {}
        self._ended: deque[tuple[float, Series]] = deque(maxlen=_ENDED)
        self._ticks = 0
        self._guests = asyncio.Semaphore(_GUESTS)
        self._tasks = OwnedTasks()
        self._slow: asyncio.Task[object] | None = None
        self._is_open = False
        self.loop = Loop("sample sandboxes")

    async def start(self) -> None:
        """Begin to take samples, unless the interval is 0."""
        if not self._settings.interval_s:
            return
        await run_to_end(self._outbox.open)
        self._is_open = True
        self._tasks.start("sample sandboxes", self.loop.run(self._tick, every_s=self._settings.interval_s))

    async def close(self) -> None:
        """Take no more samples, and put all that the control plane lacks into the outbox. Idempotent."""
        await self._tasks.close()
        if self._is_open:
            self._is_open = False
            batches = [batch for tracked in self._tracked.values() for batch in _whole(tracked.series)]
            self._tracked.clear()
            await self._put_into_outbox(batches)

    def newest(self, sandbox_id: SandboxId) -> Sample | None:
        """Return the newest sample of a running sandbox; None: it has none yet, or does not run."""
        tracked = self._tracked.get(sandbox_id)
        return None if tracked is None else tracked.series.newest

    def newest_of(self, ids: Iterable[SandboxId]) -> list[tuple[SandboxId, Sample, int]]:
        """Return the newest sample and the vCPUs of each of these sandboxes that runs and has one."""
        found = (self._tracked[sandbox_id] for sandbox_id in ids if sandbox_id in self._tracked)
        return [
            (tracked.series.sandbox_id, tracked.series.newest, tracked.record.spec.shape.vcpus)
            for tracked in found
            if tracked.series.newest is not None
        ]

    def newest_of_all(self) -> list[tuple[SandboxId, Sample, int]]:
        """Return the same of all sandboxes that run."""
        return self.newest_of(self._tracked)

    def since(self, sandbox_id: SandboxId, tier: Tier, at_ms: int) -> bytes:
        """Return the samples of a sandbox that are in memory, packed; of one that runs no more only those that were sent lately."""
        parts = [series.since(tier, at_ms) for _, series in self._ended if series.sandbox_id == sandbox_id]
        if (tracked := self._tracked.get(sandbox_id)) is not None:
            parts.append(tracked.series.since(tier, at_ms))
        return parts[0] if len(parts) == 1 else merge_samples(parts, since_ms=at_ms)

    async def _tick(self) -> None:
        self._ticks += 1
        known = self._sandboxes()
        present = {record.spec.sandbox_id: (record, running) for record, running in known}
        batches = self._end_those_that_stopped(present)
        try:
            batches += await self._sample(present)
        finally:
            # What has ended is in no series any more, so it must not be lost with a reading that fails or is cancelled.
            await self._put_into_outbox(batches)

    async def _sample(self, present: dict[SandboxId, tuple[Record, RunningSandbox | None]]) -> list[Batch]:
        """Take a sample of each sandbox that runs; return what the control plane lacks by now."""
        batches: list[Batch] = []
        for sandbox_id, (record, running) in present.items():
            if running is None:
                continue
            tracked = self._tracked.get(sandbox_id)
            if tracked is None:
                tracked = self._tracked[sandbox_id] = _Tracked(record, running, Series(sandbox_id))
            tracked.record = record
        sampled = list(self._tracked.values())
        if sampled:
            if len(sampled) > _READ_AT_ONCE:
                readings = await run_to_end(partial(self._read, sampled))
            else:
                readings = self._read(sampled)
            at_ms = int(self._clock.now().timestamp() * 1000)
            for tracked, reading in zip(sampled, readings, strict=True):
                if tracked.series.is_set_back(at_ms):
                    batches += self._end(tracked.series, *Tier)
                    tracked.series = Series(tracked.series.sandbox_id)
                _add(tracked, reading, at_ms)
        self._begin_slow(sampled)
        if self._ticks % _SENT_TICKS == 0:
            for tracked in sampled:
                batches += tracked.series.take_unsent(Tier.MEDIUM, Tier.COARSE)
        return batches

    def _end_those_that_stopped(
        self, present: dict[SandboxId, tuple[Record, RunningSandbox | None]]
    ) -> list[Batch]:
        """Forget the sandboxes that run no more, or again on another VM; return what the control plane lacks of them."""
        while self._ended and self._clock.monotonic() - self._ended[0][0] > _ENDED_RETENTION_S:
            self._ended.popleft()
        batches: list[Batch] = []
        for sandbox_id, tracked in list(self._tracked.items()):
            found = present.get(sandbox_id)
            if found is not None and found[1] is tracked.running:
                continue
            del self._tracked[sandbox_id]
            # Of one that was removed nobody looks at the last ten minutes any more.
            batches += self._end(tracked.series, *((Tier.COARSE,) if found is None else Tier))
        return batches

    def _end(self, series: Series, *tiers: Tier) -> list[Batch]:
        """Keep a series that is over in memory for a while; return what the control plane lacks of these tiers."""
        self._ended.append((self._clock.monotonic(), series))
        return _whole(series, *tiers)

    def _read(self, sampled: Sequence[_Tracked]) -> list[_Reading | None]:
        """Read what the machine says about these sandboxes; None for those whose VM has ended. Runs in a thread."""
        return [self._reading(tracked) for tracked in sampled]

    def _reading(self, tracked: _Tracked) -> _Reading | None:
        usage = tracked.running.vm.usage()
        if usage is None:
            return None
        slot = tracked.record.slot
        counters = None if slot is None else self._counters(slot)
        return _Reading(self._clock.monotonic(), usage, counters)

    def _begin_slow(self, sampled: Sequence[_Tracked]) -> None:
        """Take the slow readings beside the others: of all sandboxes at their time, and of new ones at once."""
        is_due = self._ticks % _SLOW_TICKS == 0
        due = [tracked for tracked in sampled if is_due or tracked.disk_b is None]
        if due and (self._slow is None or self._slow.done()):
            self._slow = self._tasks.start(
                "slow samples", run_to_end(partial(self._read_disks_and_shares, due, sampled))
            )
        # Each by itself: one that takes its time holds up neither the disks nor, for long, other guests.
        for tracked in due:
            if tracked.asking:
                continue
            if tracked.skipped:
                tracked.skipped -= is_due
                continue
            tracked.asking = True
            self._tasks.start("figures of a guest", self._ask_guest(tracked))

    def _read_disks_and_shares(self, due: Sequence[_Tracked], running: Sequence[_Tracked]) -> None:
        self._disk_usage.forget_all_but([tracked.record for tracked in running])
        disks = self._disk_usage.measure_layers([tracked.record for tracked in due])
        for tracked in due:
            tracked.disk_b = disks[tracked.record.spec.sandbox_id]
            resident_b = None if tracked.last is None else tracked.last.usage.resident_b
            if not self._is_share_known(tracked, resident_b):
                tracked.mem_pss_b = tracked.running.vm.proportional_b()
                tracked.shared_at = None if resident_b is None else (self._ticks, resident_b)

    def _is_share_known(self, tracked: _Tracked, resident_b: int | None) -> bool:
        """Whether the share of memory that was read before is still good."""
        if tracked.shared_at is None or tracked.mem_pss_b is None or resident_b is None:
            return False
        ticks, before_b = tracked.shared_at
        return self._ticks - ticks < _SHARE_TICKS and abs(resident_b - before_b) < _SHARE_CHANGE_B

    async def _ask_guest(self, tracked: _Tracked) -> None:
        """Ask a guest for its own figures. This is no activity, and a guest that does not answer costs nothing but its figures."""
        running = tracked.running
        try:
            async with self._guests:
                if running.closed or running.suspend_reason or running.guest_frozen or running.being_removed:
                    return  # its figures are those of before
                begun = self._clock.monotonic()
                try:
                    tracked.guest = await read_figures(running.guest, timeout_s=_GUEST_TIMEOUT_S)
                except WrennError as error:
                    tracked.guest = None
                    fields = {"sandbox_id": str(tracked.series.sandbox_id), "cause": error.message}
                    _log.debug("no figures of the guest", extra=fields)
                is_prompt = tracked.guest is not None and self._clock.monotonic() - begun < _GUEST_PROMPT_S
                tracked.skipped = 0 if is_prompt else _GUEST_SKIPPED
        finally:
            tracked.asking = False

    async def _put_into_outbox(self, batches: Sequence[Batch]) -> None:
        if batches:
            await fault_point("agent.metrics.before_outbox")
            await run_to_end(partial(self._outbox.add, batches))
            self._outbox.on_added()


def _whole(series: Series, *tiers: Tier) -> list[Batch]:
    """Return what was not sent of a series that is over; by default of all tiers."""
    series.finish()
    return series.take_unsent(*(tiers or Tier))


def _add(tracked: _Tracked, reading: _Reading | None, at_ms: int) -> None:
    """Add the sample that follows from a reading and the one before."""
    before, tracked.last = tracked.last, reading
    if before is None or reading is None or reading.at_s <= before.at_s:
        return  # rates need two readings of the same VM
    elapsed_s = reading.at_s - before.at_s
    used_s = max(0.0, reading.usage.cpu_s - before.usage.cpu_s)
    net_in = net_out = 0.0
    if reading.counters is not None and before.counters is not None:
        # The host sends what the guest receives.
        net_in = max(0, reading.counters.sent_b - before.counters.sent_b) / elapsed_s
        net_out = max(0, reading.counters.received_b - before.counters.received_b) / elapsed_s
    guest = tracked.guest
    tracked.series.add(
        Sample(
            at_ms=at_ms,
            cpu_pct=min(100.0, used_s / (elapsed_s * tracked.record.spec.shape.vcpus) * 100),
            net_in_b_per_s=net_in,
            net_out_b_per_s=net_out,
            mem_b=reading.usage.resident_b,
            mem_pss_b=tracked.mem_pss_b,
            disk_b=tracked.disk_b,
            guest_mem_used_b=guest.mem_used_b if guest else None,
            guest_mem_available_b=guest.mem_available_b if guest else None,
            guest_disk_used_b=guest.disk_used_b if guest else None,
            guest_disk_total_b=guest.disk_total_b if guest else None,
        )
    )
