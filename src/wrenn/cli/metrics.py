"""`wrenn metrics`: what a sandbox used over time."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable, Sequence
from contextlib import closing
from typing import TYPE_CHECKING, Annotated, Final

import typer

from wrenn.cli.lifecycle import IdArgument
from wrenn.cli.output import JsonOption, age, print_json, size
from wrenn.cli.settings import use_credentials
from wrenn.cli.sparkline import sparkline

if TYPE_CHECKING:
    from wrenn.sdk import MetricPoint
    from wrenn.sdk.types import MetricsRange

_RANGES: Final = ("5m", "10m", "1h", "2h", "6h", "12h", "24h")
_LEAST_WIDTH: Final = 10
_TEXT_WIDTH: Final = 46
"""What stands beside a line: its name and three values."""


def metrics(
    sandbox_id: IdArgument,
    *,
    span: Annotated[
        str, typer.Option("--range", help=f"How far back: {', '.join(_RANGES)}.", show_default=True)
    ] = "10m",
    json: JsonOption = False,
) -> None:
    """Show what a sandbox used over time: CPU, memory, disk and network; this does not count as use of it.

    The values go back from now, or from the last one if the sandbox does not run.
    """
    from wrenn.sdk import Sandbox

    chosen = _range_of(span)
    use_credentials()
    with closing(Sandbox.connect(sandbox_id, resume=False)) as sandbox:
        points = sandbox.metrics(chosen)
    if json:
        print_json(points)
        return
    if not points:
        sys.stdout.write("There are no metrics of this sandbox in this range yet.\n")
        return
    width = max(_LEAST_WIDTH, shutil.get_terminal_size().columns - _TEXT_WIDTH)
    sys.stdout.write(f"{'':<14}{'NOW':>10}{'MEAN':>10}{'HIGHEST':>10}\n")
    for line in _lines(points, width):
        sys.stdout.write(f"{line}\n")
    sys.stdout.write(f"{len(points)} values, the newest {age(points[-1].at)} ago\n")


def _range_of(text: str) -> MetricsRange:
    for span in _RANGES:
        if span == text:
            return span
    raise typer.BadParameter(f"--range must be one of {', '.join(_RANGES)}.")


def _lines(points: Sequence[MetricPoint], width: int) -> list[str]:
    rows: list[tuple[str, list[float], Callable[[float], str], float | None]] = [
        ("CPU", [point.cpu_pct for point in points], lambda value: f"{value:.1f} %", 100.0),
        ("memory", [float(point.mem_bytes) for point in points], _size, None),
        ("in the guest", _known([point.guest_mem_used_bytes for point in points]), _size, None),
        ("disk", [float(point.disk_bytes) for point in points], _size, None),
        ("in the guest", _known([point.guest_disk_used_bytes for point in points]), _size, None),
        ("received", [point.net_in_bytes_per_s for point in points], _rate, None),
        ("sent", [point.net_out_bytes_per_s for point in points], _rate, None),
    ]
    return [
        f"{name:<14}{show(values[-1]):>10}{show(sum(values) / len(values)):>10}{show(max(values)):>10}"
        f"  {sparkline(values, width=width, top=top)}"
        for name, values, show, top in rows
        if values
    ]


def _known(values: Sequence[int | None]) -> list[float]:
    return [float(value) for value in values if value is not None]


def _size(value: float) -> str:
    return size(int(value))


def _rate(value: float) -> str:
    return f"{size(int(value))}/s"
