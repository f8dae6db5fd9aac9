"""Durations as Go's `time.ParseDuration` reads them: `1h30m`, `1.5s`, `300ms`, `0`."""

from __future__ import annotations

import re
from typing import Final

_UNITS: Final = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "μs": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}
_PART: Final = re.compile(r"([0-9]+(?:\.[0-9]*)?|\.[0-9]+)(ns|us|µs|μs|ms|s|m|h)")
_LIMIT: Final = 64
"""Characters of a duration."""


def parse_duration(text: str) -> float:
    """Return the seconds of a duration, which may not be negative.

    Raises:
        ValueError: the message says what a duration looks like.
    """
    body = text.removeprefix("+")
    if body == "0":
        return 0.0
    seconds, position = 0.0, 0
    while len(body) <= _LIMIT and (part := _PART.match(body, position)):
        seconds += float(part[1]) * _UNITS[part[2]]
        position = part.end()
    if not body or position != len(body):
        raise ValueError("expected a duration such as 300ms, 1.5s or 2m30s")
    return seconds
