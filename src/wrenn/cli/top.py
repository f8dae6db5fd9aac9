"""`wrenn top`: a table of the sandboxes and what they use that is updated regularly."""

from __future__ import annotations

import dataclasses
import sys
import time
from collections import deque
from collections.abc import Mapping
from datetime import datetime
from typing import TYPE_CHECKING, Annotated, Final

import typer

from wrenn.cli.output import JsonOption, age, print_json, print_table, size
from wrenn.cli.settings import use_credentials
from wrenn.cli.sparkline import sparkline

if TYPE_CHECKING:
    from wrenn.sdk import MetricPoint, SandboxInfo

_COLUMNS: Final = ("ID", "STATUS", "CPU", "MEMORY", "DISK", "IN", "OUT", "AGE", "USED")
_HISTORY: Final = "CPU OVER TIME"
_HISTORY_LENGTH: Final = 30
_NONE: Final = "-"


def top(
    *,
    interval: Annotated[
        float, typer.Option(metavar="SECONDS", min=0.2, help="Interval between updates.")
    ] = 2,
    once: Annotated[bool, typer.Option("--once", help="Print the table once and exit.")] = False,
    json: JsonOption = False,
) -> None:
    """Show the sandboxes and what they use, and update the table until Ctrl-C.

    CPU is the share of all vCPUs, MEMORY that of the virtual machine on its host beside what the sandbox was created with, IN and OUT the network
    in bytes per second, USED the time since the last use. If the output is not a terminal, and with --json, the table is
    printed once.
    """
    from wrenn.sdk import Sandbox

    use_credentials()
    if json:
        metrics = Sandbox.newest_metrics()
        print_json([{**dataclasses.asdict(info), "metrics": metrics.get(info.id)} for info in Sandbox.list()])
        return
    if once or not sys.stdout.isatty():
        print_table(_COLUMNS, _rows(Sandbox.list(), Sandbox.newest_metrics()))
        return
    from rich.console import Console
    from rich.live import Live
    from rich.table import Table

    history = _CpuHistory()
    with Live(console=Console(), screen=True, auto_refresh=False) as live:
        try:
            while True:
                table = Table(*_COLUMNS, _HISTORY, box=None, pad_edge=False, header_style="bold")
                metrics = Sandbox.newest_metrics()
                history.add(metrics)
                for row in _rows(Sandbox.list(), metrics):
                    table.add_row(*row, history.line(row[0]))
                live.update(table, refresh=True)
                time.sleep(interval)
        except KeyboardInterrupt:
            pass


class _CpuHistory:
    """The CPU usage of each running sandbox at the last updates of the table."""

    def __init__(self) -> None:
        self._values: dict[str, deque[float]] = {}

    def add(self, metrics: Mapping[str, MetricPoint]) -> None:
        """Add the values of one update; sandboxes that run no more are forgotten."""
        self._values = {
            sandbox_id: self._values.get(sandbox_id, deque(maxlen=_HISTORY_LENGTH)) for sandbox_id in metrics
        }
        for sandbox_id, point in metrics.items():
            self._values[sandbox_id].append(point.cpu_pct)

    def line(self, sandbox_id: str) -> str:
        """Draw the values of one sandbox; empty if it does not run."""
        return sparkline(self._values.get(sandbox_id, ()), width=_HISTORY_LENGTH, top=100.0)


def _rows(found: list[SandboxInfo], metrics: Mapping[str, MetricPoint]) -> list[tuple[str, ...]]:
    """Running sandboxes first, most recently used ones first."""
    ordered = sorted(found, key=lambda info: (info.status != "running", -_last_use(info).timestamp()))
    return [
        (
            info.id,
            info.status,
            *_usage(info, metrics.get(info.id)),
            age(info.created_at),
            age(_last_use(info)),
        )
        for info in ordered
    ]


def _usage(info: SandboxInfo, point: MetricPoint | None) -> tuple[str, ...]:
    promised = f"{info.memory_mb} MB"
    if point is None:
        return (f"{_NONE} ×{info.vcpus}", f"{_NONE}/{promised}", _NONE, _NONE, _NONE)
    return (
        f"{point.cpu_pct:.0f} % ×{info.vcpus}",
        f"{point.mem_bytes // 1024**2}/{promised}",
        size(point.disk_bytes),
        size(int(point.net_in_bytes_per_s)),
        size(int(point.net_out_bytes_per_s)),
    )


def _last_use(info: SandboxInfo) -> datetime:
    return info.last_active_at or info.created_at
