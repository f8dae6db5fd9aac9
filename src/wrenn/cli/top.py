"""`wrenn top`: a table of the sandboxes that is updated regularly."""

from __future__ import annotations

import sys
import time
from datetime import datetime
from typing import TYPE_CHECKING, Annotated

import typer

from wrenn.cli.output import JsonOption, age, print_json, print_table
from wrenn.cli.settings import use_credentials

if TYPE_CHECKING:
    from wrenn.sdk import SandboxInfo

_COLUMNS = ("ID", "STATUS", "TEMPLATE", "VCPUS", "MEMORY", "AGE", "USED")


def top(
    *,
    interval: Annotated[
        float, typer.Option(metavar="SECONDS", min=0.2, help="Interval between updates.")
    ] = 2,
    once: Annotated[bool, typer.Option("--once", help="Print the table once and exit.")] = False,
    json: JsonOption = False,
) -> None:
    """Show the sandboxes and update the table until Ctrl-C.

    USED is the time since the last use. If the output is not a terminal, and with --json, the table is
    printed once.
    """
    from wrenn.sdk import Sandbox

    use_credentials()
    if json:
        print_json(Sandbox.list())
        return
    if once or not sys.stdout.isatty():
        print_table(_COLUMNS, _rows(Sandbox.list()))
        return
    from rich.console import Console
    from rich.live import Live
    from rich.table import Table

    with Live(console=Console(), screen=True, auto_refresh=False) as live:
        try:
            while True:
                table = Table(*_COLUMNS, box=None, pad_edge=False, header_style="bold")
                for row in _rows(Sandbox.list()):
                    table.add_row(*row)
                live.update(table, refresh=True)
                time.sleep(interval)
        except KeyboardInterrupt:
            pass


def _rows(found: list[SandboxInfo]) -> list[tuple[str, ...]]:
    """Running sandboxes first, most recently used ones first."""
    ordered = sorted(found, key=lambda info: (info.status != "running", -_last_use(info).timestamp()))
    return [
        (
            info.id,
            info.status,
            info.template,
            str(info.vcpus),
            f"{info.memory_mb} MB",
            age(info.created_at),
            age(_last_use(info)),
        )
        for info in ordered
    ]


def _last_use(info: SandboxInfo) -> datetime:
    return info.last_active_at or info.created_at
