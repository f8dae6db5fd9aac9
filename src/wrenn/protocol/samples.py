"""Samples of a sandbox's resource usage, and their form in 48 bytes: in memory, between host and control plane, in the database.

A form in which a field is changed, added or removed needs another `Tier` or another field of the messages that carry it.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from wrenn.base.units import KIB

_FORM: Final = struct.Struct("<q3f7I")
SAMPLE_B: Final = _FORM.size
NEWEST_LIMIT: Final = 4096
"""Sandboxes whose newest samples a host is asked for at once: it has no more slots."""
_UNKNOWN: Final = 0xFFFF_FFFF
"""Sizes are in KiB: up to 4 TiB, and this for one that is not known."""
_RATE_LIMIT: Final = 1e12


class Tier(StrEnum):
    """How densely samples are kept: every half second, every 30 seconds, every five minutes. Named by the time that they reach back."""

    FINE = "10m"
    MEDIUM = "2h"
    COARSE = "24h"

    @property
    def capacity(self) -> int:
        """How many samples of one sandbox are kept."""
        return _CAPACITIES[self]

    @property
    def window_s(self) -> int:
        """How far back they reach."""
        return _WINDOWS_S[self]


_CAPACITIES: Final = {Tier.FINE: 1200, Tier.MEDIUM: 240, Tier.COARSE: 288}
_WINDOWS_S: Final = {Tier.FINE: 600, Tier.MEDIUM: 7200, Tier.COARSE: 86_400}
MERGED: Final = {Tier.MEDIUM: 60, Tier.COARSE: 10}
"""Each sample of a tier is the mean of so many of the tier before."""


@dataclass(frozen=True, slots=True)
class Sample:
    """What a sandbox used at a moment, or on average until then. None: not known.

    Attributes:
        at_ms: Unix time in milliseconds.
        cpu_pct: of all its vCPUs, 0 to 100.
        net_in_b_per_s, net_out_b_per_s: as the guest sees it.
        mem_b: resident memory of its VMM.
        mem_pss_b: the same, with memory that is shared with others divided among them.
        disk_b: allocated in its layers.
        guest_mem_used_b, guest_mem_available_b, guest_disk_used_b, guest_disk_total_b: what the guest itself says.
    """

    at_ms: int
    cpu_pct: float
    net_in_b_per_s: float
    net_out_b_per_s: float
    mem_b: int
    mem_pss_b: int | None = None
    disk_b: int | None = None
    guest_mem_used_b: int | None = None
    guest_mem_available_b: int | None = None
    guest_disk_used_b: int | None = None
    guest_disk_total_b: int | None = None

    @property
    def sizes(self) -> tuple[int | None, ...]:
        """The sizes, in the order of the fields."""
        return (
            self.mem_b,
            self.mem_pss_b,
            self.disk_b,
            self.guest_mem_used_b,
            self.guest_mem_available_b,
            self.guest_disk_used_b,
            self.guest_disk_total_b,
        )

    def pack(self) -> bytes:
        """Return the sample in `SAMPLE_B` bytes. Sizes are rounded to KiB."""
        sizes = (_UNKNOWN if b is None else min(b // KIB, _UNKNOWN - 1) for b in self.sizes)
        return _FORM.pack(self.at_ms, self.cpu_pct, self.net_in_b_per_s, self.net_out_b_per_s, *sizes)


def unpack_samples(packed: bytes) -> Iterator[Sample]:
    """Return the samples in `packed`, which has whole ones."""
    for at_ms, cpu_pct, net_in, net_out, *kib in _FORM.iter_unpack(packed):
        sizes = [None if size == _UNKNOWN else size * KIB for size in kib]
        yield Sample(at_ms, cpu_pct, net_in, net_out, sizes[0] or 0, *sizes[1:])


def time_of(packed: bytes | bytearray | memoryview, index: int) -> int:
    """Return when the sample of this index in `packed` was taken, in milliseconds; negative indexes count from the end."""
    offset = index * SAMPLE_B
    at_ms: int = struct.unpack_from("<q", packed, offset if index >= 0 else len(packed) + offset)[0]
    return at_ms


def is_sound(packed: bytes, *, most: int) -> bool:
    """Whether these bytes of another machine are one to `most` samples: whole, in ascending order, each with possible values."""
    if not packed or len(packed) % SAMPLE_B or len(packed) > most * SAMPLE_B:
        return False
    before_ms = 0
    for at_ms, cpu_pct, net_in, net_out, *_ in _FORM.iter_unpack(packed):
        if at_ms <= before_ms or not all(map(math.isfinite, (cpu_pct, net_in, net_out))):
            return False
        if not (0 <= cpu_pct <= 100 and 0 <= net_in <= _RATE_LIMIT and 0 <= net_out <= _RATE_LIMIT):
            return False
        before_ms = at_ms
    return True


def merge_samples(parts: Sequence[bytes], *, since_ms: int) -> bytes:
    """Return the samples of all parts since that time in ascending order, each once. Each part is in ascending order."""
    by_time = {
        time_of(part, index): part[index * SAMPLE_B : (index + 1) * SAMPLE_B]
        for part in parts
        for index in range(len(part) // SAMPLE_B)
    }
    return b"".join(by_time[at_ms] for at_ms in sorted(by_time) if at_ms >= since_ms)
