"""Token buckets by key, in bounded memory."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass

from wrenn.base.clock import Clock


@dataclass(frozen=True, slots=True)
class Rate:
    """A rate limit: `per_s` in the long run, and `burst` at once after a pause."""

    per_s: float
    burst: float


class Buckets:
    """Token buckets by key. Beyond `most` keys, the bucket that was unused longest is dropped."""

    def __init__(self, rate: Rate, clock: Clock, *, most: int) -> None:
        self._rate = rate
        self._clock = clock
        self._most = most
        # Tokens that were left, and when.
        self._buckets: OrderedDict[bytes, tuple[float, float]] = OrderedDict()

    def __contains__(self, key: bytes) -> bool:
        return key in self._buckets

    def take(self, key: bytes, count: float = 1) -> float:
        """Take so many tokens, at most as many as a burst; returns 0, or in how many seconds they will be available."""
        assert count <= self._rate.burst, "it would never be possible"
        now = self._clock.monotonic()
        left, at = self._buckets.pop(key, (self._rate.burst, now))
        left = min(self._rate.burst, left + (now - at) * self._rate.per_s)
        wait_s = 0.0 if left >= count else (count - left) / self._rate.per_s
        self._buckets[key] = (left if wait_s else left - count, now)
        if len(self._buckets) > self._most:
            self._buckets.popitem(last=False)
        return wait_s

    def give_back(self, key: bytes) -> None:
        """Undo one `take` that succeeded."""
        if (bucket := self._buckets.get(key)) is not None:
            self._buckets[key] = (min(self._rate.burst, bucket[0] + 1), bucket[1])

    def forget(self, key: bytes) -> None:
        """Drop the bucket of a key."""
        self._buckets.pop(key, None)
