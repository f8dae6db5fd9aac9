"""Output of commands: a table for people, JSON for programs."""

from __future__ import annotations

import dataclasses
import json
import sys
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Annotated

import typer

JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def print_json(value: object) -> None:
    """Print a value as JSON: dataclasses as objects, times in RFC 3339.

    On a terminal only ASCII is printed as it is: there are characters above that control the terminal, or the order of others.
    """
    text = json.dumps(value, default=_plain, ensure_ascii=sys.stdout.isatty(), indent=2)
    sys.stdout.write(text.replace("\x7f", "\\u007f") + "\n")


def printable(text: str, *, to_terminal: bool = True) -> str:
    """Return a text of a guest or another user without what could control the terminal.

    For a pipe or a file, bytes of a name that are not UTF-8 are left as they are.
    """
    return "".join(
        c
        if c.isprintable() or (not to_terminal and "\udc80" <= c <= "\udcff")
        else " "
        if c in "\t\n"
        else "\N{REPLACEMENT CHARACTER}"
        for c in text
    )


def printable_lines(text: str) -> str:
    """Return a text of several lines of a guest or another user without what could control the terminal."""
    return "\n".join(printable(line) for line in text.split("\n"))


def print_table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print a table with a header; plain columns if the output is not a terminal. The first column is never folded.

    What could control the terminal is replaced in all cells, which may be names of a guest.
    """
    to_terminal = sys.stdout.isatty()
    rows = [[printable(cell, to_terminal=to_terminal) for cell in row] for row in rows]
    if not to_terminal:
        widths = [max(len(row[i]) for row in [columns, *rows]) for i in range(len(columns))]
        for row in [columns, *rows]:
            sys.stdout.write(
                "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() + "\n"
            )
        return
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, header_style="bold")
    for index, column in enumerate(columns):
        table.add_column(column, overflow="fold", no_wrap=index == 0)
    for row in rows:
        table.add_row(*(Text(cell) for cell in row))
    Console().print(table)


def age(since: datetime) -> str:
    """Format the time since a moment in the largest unit that fits."""
    return _rounded(datetime.now(since.tzinfo) - since)


def until(moment: datetime) -> str:
    """Format the time until a moment in the largest unit that fits; `now` if it has passed."""
    left = moment - datetime.now(moment.tzinfo)
    return f"in {_rounded(left)}" if left.total_seconds() > 0 else "now"


def size(count: int) -> str:
    """Format a number of bytes in the largest unit that fits."""
    for unit, length in (("GB", 1024**3), ("MB", 1024**2), ("KB", 1024)):
        if count >= length:
            return f"{count / length:.1f} {unit}"
    return f"{count} B"


def _rounded(span: timedelta) -> str:
    seconds = int(span.total_seconds())
    for unit, length in (("d", 86_400), ("h", 3_600), ("min", 60)):
        if seconds >= length:
            return f"{seconds // length} {unit}"
    return f"{max(seconds, 0)} s"


def _plain(value: object) -> object:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return dataclasses.asdict(value)
    return value.isoformat() if isinstance(value, datetime) else str(value)
