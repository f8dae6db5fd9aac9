"""The columns of a data frame as JSON."""

from __future__ import annotations

import datetime as dt
import math
from typing import Any

_CELLS_LIMIT = 100_000


def columns_of(frame: Any) -> dict[str, list[Any]] | None:
    """Return lists of values by column; None for a frame that is too large to show."""
    if frame.size > _CELLS_LIMIT:
        return None
    return {str(name): [_plain(value) for value in values] for name, values in frame.items()}


def _plain(value: Any) -> Any:
    if hasattr(value, "item"):
        value = value.item()
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if value is None or isinstance(value, (bool, int, str)):
        return value
    if isinstance(value, (dt.datetime, dt.date, dt.time)):
        return value.isoformat() if value == value else None  # noqa: PLR0124 - NaT is not equal to itself
    return str(value)
