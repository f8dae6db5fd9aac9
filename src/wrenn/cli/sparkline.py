"""A series of numbers as a line of block characters."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Final

_BLOCKS: Final = "▁▂▃▄▅▆▇█"


def sparkline(values: Sequence[float], *, width: int, top: float | None = None) -> str:
    """Draw the values with `width` characters or fewer, each the highest of its share of them.

    `top`: the value of the highest character; by default the highest value.
    """
    if not values:
        return ""
    width = min(width, len(values))
    bounds = [len(values) * index // width for index in range(width + 1)]
    columns = [max(values[start:end]) for start, end in itertools.pairwise(bounds)]
    highest = top or max(columns) or 1.0
    last = len(_BLOCKS) - 1
    return "".join(_BLOCKS[max(0, min(last, round(value / highest * last)))] for value in columns)
