"""`wrenn doctor`: checks the machine and finds leftovers."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Annotated

import typer

from wrenn.cli.exits import Exit
from wrenn.cli.images import DataDirOption
from wrenn.cli.output import JsonOption, print_json, print_table
from wrenn.cli.settings import data_dir

if TYPE_CHECKING:
    from wrenn.agent.doctor import Check


def doctor(
    data_dir_: DataDirOption = None,
    *,
    fix: Annotated[bool, typer.Option("--fix", help="Remove what no live sandbox owns.")] = False,
    json: JsonOption = False,
) -> None:
    """Check the machine and find leftovers.

    A leftover is a resource of this installation that no live sandbox owns. Leftovers of other installations
    whose data folder no longer exists are listed separately, and `--fix` removes them too.

    The exit code is 0 only if no check failed and there are no leftovers. Warnings do not count.
    """
    from wrenn.cli.up.agent_doctor import examine, fix_leftovers

    place = data_dir(data_dir_)
    report = asyncio.run(fix_leftovers(place) if fix else examine(place))
    if json:
        print_json(report)
    else:
        checks = [
            (check.name, _result(check), _with(check.detail, "" if check.ok else check.hint))
            for check in report.checks
        ]
        print_table(("CHECK", "RESULT", "DETAIL"), checks)
        if report.leftovers:
            typer.echo("\nLeft over (remove with `wrenn doctor --fix`):")
            print_table(
                ("KIND", "NAME", "NAMED AFTER"),
                [(item.kind, item.name, item.owner) for item in report.leftovers],
            )
        else:
            typer.echo("\nNothing is left over.")
        if report.vanished:
            typer.echo("\nOf installations whose data folder is gone (remove with `wrenn doctor --fix`):")
            print_table(
                ("KIND", "NAME", "DATA FOLDER"),
                [(item.kind, item.name, item.owner) for item in report.vanished],
            )
    if not report.healthy:
        raise typer.Exit(Exit.ERROR)


def _result(check: Check) -> str:
    if check.ok:
        return "ok"
    return "FAILED" if check.failed else "warning"


def _with(detail: str, hint: str) -> str:
    return f"{detail} ({hint})" if hint else detail
