"""Applies a command to several things: a failure does not prevent the others."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import typer

from wrenn.cli.exits import Exit, exit_code, print_error
from wrenn.cli.output import print_json


def do_each(names: Sequence[str], act: Callable[[str], object], *, done: str, json: bool) -> None:
    """Call `act` with every name; `done` is the word for a success in the JSON output.

    The exit code is that of the last failure.
    """
    from wrenn.sdk import WrennError

    outcome, code = dict[str, str](), Exit.OK
    for name in names:
        try:
            act(name)
            outcome[name] = done
        except WrennError as error:
            print_error(error)
            outcome[name], code = error.code, exit_code(error)
    if json:
        print_json(outcome)
    if code is not Exit.OK:
        raise typer.Exit(code)
