"""`wrenn storage`: disk usage of this host."""

from __future__ import annotations

from typing import TYPE_CHECKING

import typer

from wrenn.cli.images import DataDirOption
from wrenn.cli.output import JsonOption, print_json, print_table, size
from wrenn.cli.settings import data_dir

if TYPE_CHECKING:
    from wrenn.agent.storage_report import StorageReport, Usage


def storage(data_dir_: DataDirOption = None, *, json: JsonOption = False) -> None:
    """Show the disk usage of this host; needs root.

    The first table has the templates: image, bases and snapshot of each. The second has everything by itself, sandboxes too.
    OWN is the space that removing it would free; SHARED is space that it uses together with others. The total
    counts shared space once.
    """
    from wrenn.cli.up.agent_doctor import disk_use

    report = disk_use(data_dir(data_dir_))
    if json:
        print_json(report)
    else:
        show(report)


def show(report: StorageReport) -> None:
    """Print the tables, sorted by the space that removal would free, and the total."""
    for usages in (report.templates, report.usages):
        _show_table(usages)
    typer.echo(f"{size(report.total_b)} in all.")


def _show_table(usages: list[Usage]) -> None:
    usages = sorted(usages, key=lambda usage: (usage.kind, -usage.own_b, usage.name))
    rows = [(use.name, use.kind, size(use.own_b), size(use.shared_b), use.detail) for use in usages]
    if rows:
        print_table(("NAME", "KIND", "OWN", "SHARED", "DETAIL"), rows)
        typer.echo()
