"""`wrenn logs`: output of a background process."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated

import typer

from wrenn.cli.output import JsonOption
from wrenn.cli.settings import use_credentials

if TYPE_CHECKING:
    from wrenn.sdk import Output


def logs(
    sandbox_id: Annotated[str, typer.Argument(metavar="ID", help="The sandbox.")],
    process: Annotated[str, typer.Argument(metavar="PID|TAG", help="The process.")],
    *,
    follow: Annotated[
        bool, typer.Option("--follow", "-f", help="Keep printing new output until it ends.")
    ] = False,
    json: JsonOption = False,
) -> None:
    """Show the output of a background process: the last 1 MiB.

    The output is available while the process runs, and after its end until it was read, at most for an hour.
    With --json, each line is an object {"stream", "text"}.
    """
    from wrenn.sdk import Sandbox

    use_credentials()
    sandbox = Sandbox.connect(sandbox_id, resume=False)
    with sandbox.commands.connect(process) as stream:
        if stream.missed:
            sys.stderr.write(f"wrenn: {stream.missed} bytes before this are not kept any more\n")
        left = stream.replayed
        while (follow or left > 0) and (output := stream.read()) is not None:
            _show(output, json=json)
            left -= len(output.data)
    sandbox.close()


def _show(output: Output, *, json: bool) -> None:
    if json:
        from json import dumps

        line = {"stream": output.stream, "text": output.text}
        sys.stdout.write(dumps(line, ensure_ascii=False) + "\n")
        sys.stdout.flush()
        return
    ours = sys.stderr.buffer if output.stream == "stderr" else sys.stdout.buffer
    ours.write(output.data)
    ours.flush()
