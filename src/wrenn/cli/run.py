"""`wrenn run`: a file in a sandbox of its own."""

from __future__ import annotations

import os
import signal
import sys
import threading
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Annotated, BinaryIO, NoReturn

import typer

from wrenn.cli.sandboxes import EnvOption, variables
from wrenn.cli.settings import use_credentials

if TYPE_CHECKING:
    from wrenn.sdk import ProcessStream

_INTERPRETERS = {
    ".py": ["python3"],
    ".sh": ["/bin/sh"],
    ".bash": ["/bin/bash"],
    ".js": ["node"],
    ".rb": ["ruby"],
}
_FOLDER = PurePosixPath("/root")
_READ_B = 64 * 1024


def run(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="Program or script on this machine.")],
    arguments: Annotated[
        list[str] | None, typer.Argument(metavar="[--] [ARG...]", help="Its arguments.")
    ] = None,
    *,
    template: Annotated[str, typer.Option(help="Template to start from.")] = "minimal",
    vcpus: Annotated[int | None, typer.Option(help="Virtual CPUs.")] = None,
    memory: Annotated[int | None, typer.Option(metavar="MB", help="Memory in MB.")] = None,
    env: EnvOption = None,
    timeout: Annotated[float | None, typer.Option(metavar="SECONDS", help="Kill it after this long.")] = None,
    stdin: Annotated[bool, typer.Option("--stdin", "-i", help="Give it this program's input.")] = False,
) -> None:
    """Run a file in a new sandbox, which is removed afterwards.

    Its output comes as it is written, and its exit code becomes that of this program. A script with #! is run by that program; else .py by python3, .sh by sh; anything else is started as it is.
    """
    from wrenn.sdk import Sandbox

    use_credentials()
    try:
        content = file.open("rb")
    except OSError as error:
        raise typer.BadParameter(f"{file} cannot be read: {error.strerror}.") from error
    signal.signal(signal.SIGTERM, _leave)
    with content:
        head = content.peek(2)[:2]
        with Sandbox.create(template, vcpus=vcpus, memory_mb=memory) as sandbox:
            path = str(_FOLDER / (file.name or "program"))
            sandbox.files.write(path, content)
            command = command_of(path, has_shebang=head == b"#!")
            if command == [path]:
                sandbox.commands.run(["chmod", "+x", path], check=True)
            stream = sandbox.commands.stream(
                [*command, *(arguments or [])],
                envs=variables(env),
                cwd=str(_FOLDER),
                stdin=stdin,
                timeout_s=timeout,
            )
            with stream:
                if stdin:
                    threading.Thread(target=_feed, args=(stream, sys.stdin.buffer), daemon=True).start()
                code = copy_out(stream)
    raise typer.Exit(code & 0xFF)


def command_of(path: str, *, has_shebang: bool) -> list[str]:
    """How a file of this name is run."""
    interpreter = [] if has_shebang else _INTERPRETERS.get(PurePosixPath(path).suffix, [])
    return [*interpreter, path]


def copy_out(stream: ProcessStream) -> int:
    """Write its output to ours until its end; returns the exit code."""
    ours = {"stdout": sys.stdout.buffer, "stderr": sys.stderr.buffer, "pty": sys.stdout.buffer}
    for output in stream:
        ours[output.stream].write(output.data)
        ours[output.stream].flush()
    assert stream.exit_code is not None, "the output ends with the exit code"
    return stream.exit_code


def _feed(stream: ProcessStream, source: BinaryIO) -> None:
    from wrenn.sdk import WrennError

    try:
        while chunk := os.read(source.fileno(), _READ_B):
            stream.send_stdin(chunk)
        stream.close_stdin()
    except (WrennError, OSError):
        return  # the command has ended; who copies its output tells how


def _leave(number: int, _frame: object) -> NoReturn:
    # As an exception, so that the sandbox is removed on the way out.
    raise SystemExit(128 + number)
