"""Ranges of time that callers name."""

from __future__ import annotations

from enum import StrEnum
from typing import Final

from wrenn.protocol.samples import Tier

_SECONDS: Final = {
    "5m": 300, "10m": 600, "1h": 3600, "2h": 7200, "6h": 21_600, "12h": 43_200, "24h": 86_400, "30d": 2_592_000,
}  # fmt: skip


class SampleRange(StrEnum):
    """How far back the samples of a sandbox go."""

    M5 = "5m"
    M10 = "10m"
    H1 = "1h"
    H2 = "2h"
    H6 = "6h"
    H12 = "12h"
    H24 = "24h"

    @property
    def seconds(self) -> int:
        """As seconds."""
        return _SECONDS[self]

    @property
    def tier(self) -> Tier:
        """The densest samples that go so far back."""
        return next(tier for tier in Tier if tier.window_s >= self.seconds)


class StatsRange(StrEnum):
    """How far back the statistics of a team go."""

    M5 = "5m"
    H1 = "1h"
    H6 = "6h"
    H24 = "24h"
    D30 = "30d"

    @property
    def seconds(self) -> int:
        """As seconds."""
        return _SECONDS[self]

    @property
    def bucket_s(self) -> int:
        """The width of a bucket of the series."""
        return _BUCKETS_S[self]


_BUCKETS_S: Final = {
    StatsRange.M5: 3, StatsRange.H1: 30, StatsRange.H6: 180, StatsRange.H24: 720, StatsRange.D30: 21_600,
}  # fmt: skip
