"""Lines of block characters (`cli/sparkline.py`)."""

from __future__ import annotations

import pytest

from wrenn.cli.sparkline import sparkline


@pytest.mark.parametrize(
    ("values", "width", "top", "line"),
    [
        ([], 10, None, ""),
        ([0.0, 0.0], 10, None, "▁▁"),
        ([0.0, 50.0, 100.0], 10, 100.0, "▁▅█"),
        ([1.0, 2.0], 10, None, "▅█"),
        # Each character is the highest of its share.
        ([0.0, 9.0, 0.0, 0.0], 2, None, "█▁"),
        ([500.0], 10, 100.0, "█"),
    ],
)
def test_values_are_drawn_in_the_width(values: list[float], width: int, top: float | None, line: str) -> None:
    assert sparkline(values, width=width, top=top) == line
