"""Token buckets: what passes in a time, and that memory is bounded."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from wrenn.control.http.buckets import Buckets, Rate


class HeldClock:
    """Time that stands still until it is moved."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def monotonic(self) -> float:
        return self.seconds

    def now(self) -> datetime:
        return datetime.now(UTC)


def test_a_burst_passes_and_then_the_rate():
    clock = HeldClock()
    buckets = Buckets(Rate(per_s=2, burst=3), clock, most=10)
    assert [buckets.take(b"a") for _ in range(3)] == [0, 0, 0]
    assert buckets.take(b"a") == pytest.approx(0.5)
    assert buckets.take(b"b") == 0, "another key has its own"
    clock.seconds += 0.25
    assert buckets.take(b"a") == pytest.approx(0.25), "asking costs nothing"
    clock.seconds += 0.25
    assert buckets.take(b"a") == 0
    clock.seconds += 1000
    assert [buckets.take(b"a") for _ in range(4)] == [0, 0, 0, pytest.approx(0.5)], (
        "no more than a burst is saved"
    )


def test_of_too_many_the_longest_unused_is_forgotten():
    buckets = Buckets(Rate(per_s=1, burst=1), HeldClock(), most=2)
    for key in (b"a", b"b", b"a", b"c"):
        buckets.take(key)
    assert b"a" in buckets
    assert b"b" not in buckets
    buckets.forget(b"a")
    buckets.forget(b"a")
    assert b"a" not in buckets
