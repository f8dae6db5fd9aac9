"""The samples of one sandbox in memory, in three tiers of fixed size."""

from __future__ import annotations

from bisect import bisect_left
from copy import deepcopy
from dataclasses import dataclass
from typing import Final

from wrenn.base.ids import SandboxId
from wrenn.protocol.samples import MERGED, SAMPLE_B, Sample, Tier, time_of

_NEXT: Final = {Tier.FINE: Tier.MEDIUM, Tier.MEDIUM: Tier.COARSE}

_SET_BACK_MS: Final = 5_000


@dataclass(frozen=True, slots=True)
class Batch:
    """Samples of one sandbox and tier, packed, for the control plane to store."""

    sandbox_id: SandboxId
    tier: Tier
    packed: bytes


class _Ring:
    """The newest samples of one tier, packed. It grows to its capacity, and then the oldest sample makes way."""

    def __init__(self, capacity: int) -> None:
        self._limit_b = capacity * SAMPLE_B
        self._content = bytearray()
        self._next = 0  # where the next sample is written once the ring is full: the oldest one is there

    def append(self, packed: bytes) -> None:
        if len(self._content) < self._limit_b:
            self._content += packed
            return
        self._content[self._next : self._next + SAMPLE_B] = packed
        self._next = (self._next + SAMPLE_B) % self._limit_b

    def since(self, at_ms: int) -> bytes:
        """Return the samples that were taken at this time or later."""
        content = self._content
        count = len(content) // SAMPLE_B
        oldest = self._next // SAMPLE_B
        found = bisect_left(range(count), at_ms, key=lambda index: time_of(content, (oldest + index) % count))
        if found == count:
            return b""
        start = (oldest + found) % count * SAMPLE_B
        if start >= self._next:
            return bytes(content[start:] + content[: self._next])
        return bytes(content[start : self._next])


class _Mean:
    """The mean of the samples that were added since the last one was taken."""

    def __init__(self) -> None:
        self._clear()

    def _clear(self) -> None:
        self.count = 0
        self._at_ms = 0
        self._rates = [0.0, 0.0, 0.0]
        self._sizes = [0] * 7
        self._known = [0] * 7

    def add(self, sample: Sample) -> None:
        self.count += 1
        self._at_ms = sample.at_ms
        for index, rate in enumerate((sample.cpu_pct, sample.net_in_b_per_s, sample.net_out_b_per_s)):
            self._rates[index] += rate
        for index, size_b in enumerate(sample.sizes):
            if size_b is not None:
                self._sizes[index] += size_b
                self._known[index] += 1

    def value(self) -> Sample:
        """Return the mean, with the time of the last sample."""
        cpu_pct, net_in, net_out = (rate / self.count for rate in self._rates)
        sizes = [
            total // known if known else None for total, known in zip(self._sizes, self._known, strict=True)
        ]
        return Sample(self._at_ms, min(100.0, cpu_pct), net_in, net_out, sizes[0] or 0, *sizes[1:])

    def take(self) -> Sample:
        """Return the mean and begin anew."""
        value = self.value()
        self._clear()
        return value


class Series:
    """The samples of one sandbox from its start or resume on."""

    def __init__(self, sandbox_id: SandboxId) -> None:
        self.sandbox_id = sandbox_id
        self.newest: Sample | None = None
        self._rings = {tier: _Ring(tier.capacity) for tier in Tier}
        self._means = {tier: _Mean() for tier in _NEXT.values()}
        self._sent_ms = dict.fromkeys(Tier, 0)
        """The newest sample of each tier that was taken for the control plane."""

    def add(self, sample: Sample) -> None:
        """Add a sample. One that is not newer than all others is left out: the clock was set back a little (`is_set_back`)."""
        if self.newest is not None and sample.at_ms <= self.newest.at_ms:
            return
        self.newest = sample
        self._append(Tier.FINE, sample)

    def is_set_back(self, at_ms: int) -> bool:
        """Whether the clock says now that the newest sample is of the future, by more than is waited for: a new series must begin."""
        return self.newest is not None and at_ms < self.newest.at_ms - _SET_BACK_MS

    def _append(self, tier: Tier, sample: Sample) -> None:
        self._rings[tier].append(sample.pack())
        if (above := _NEXT.get(tier)) is None:
            return
        mean = self._means[above]
        mean.add(sample)
        if mean.count == MERGED[above]:
            self._append(above, mean.take())

    def since(self, tier: Tier, at_ms: int) -> bytes:
        """Return the samples of a tier since a time, packed. The last one may be the mean of fewer samples than the others."""
        packed = self._rings[tier].since(at_ms)
        provisional = self._provisional(tier)
        if provisional is not None and provisional.at_ms >= at_ms:
            packed += provisional.pack()
        return packed

    def _provisional(self, tier: Tier) -> Sample | None:
        """Return the mean of what is not in the tier's ring yet."""
        if tier is Tier.FINE:
            return None
        if tier is Tier.MEDIUM or not self._means[Tier.MEDIUM].count:
            return self._means[tier].value() if self._means[tier].count else None
        # Weighted as in the ring: each sample of the tier below counts once.
        together = deepcopy(self._means[tier])
        together.add(self._means[Tier.MEDIUM].value())
        return together.value()

    def take_unsent(self, *tiers: Tier) -> list[Batch]:
        """Return the samples of these tiers that were not returned before."""
        batches: list[Batch] = []
        for tier in tiers:
            packed = self._rings[tier].since(self._sent_ms[tier] + 1)
            if packed:
                self._sent_ms[tier] = time_of(packed, -1)
                batches.append(Batch(self.sandbox_id, tier, packed))
        return batches

    def finish(self) -> None:
        """Move what is not a whole mean yet into the tiers above, so that a sandbox that ran for some seconds is in all of them."""
        for tier in (Tier.MEDIUM, Tier.COARSE):
            if self._means[tier].count:
                self._append(tier, self._means[tier].take())
