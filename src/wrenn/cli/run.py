"""`wrenn run`: runs a local file in a new sandbox."""

from __future__ import annotations

from pathlib import Path, PurePosixPath
from typing import Annotated

import typer

from wrenn.cli.following import copy_out, exit_on_signals, feed_stdin, interrupt_on_ctrl_c
from wrenn.cli.sandboxes import EnvOption, variables
from wrenn.cli.settings import use_credentials

_INTERPRETERS = {
    ".py": ["python3"],
    ".sh": ["/bin/sh"],
    ".bash": ["/bin/bash"],
    ".js": ["node"],
    ".rb": ["ruby"],
}
_FOLDER = PurePosixPath("/root")


def run(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="Program or script on this machine.")],
    arguments: Annotated[
        list[str] | None, typer.Argument(metavar="[--] [ARG...]", help="Its arguments.")
    ] = None,
    *,
    template: Annotated[str, typer.Option(help="Template to start from.")] = "minimal",
    vcpus: Annotated[int | None, typer.Option(help="Virtual CPUs.")] = None,
    memory: Annotated[int | None, typer.Option(metavar="MB", help="Memory in MB.")] = None,
    disk: Annotated[int | None, typer.Option(metavar="MB", help="Disk size in MB.")] = None,
    env: EnvOption = None,
    timeout: Annotated[float | None, typer.Option(metavar="SECONDS", help="Kill it after this long.")] = None,
    stdin: Annotated[bool, typer.Option("--stdin", "-i", help="Forward standard input to it.")] = False,
) -> None:
    """Run a file in a new sandbox, which is removed afterwards.

    If this program is killed, the platform removes the sandbox within ten minutes.

    The output is shown as it is written, and the exit code is that of the program. A script with #! is run by
    that interpreter; otherwise .py by python3, .sh by sh; anything else is executed directly.
    """
    from wrenn.sdk import Sandbox
    from wrenn.sdk._lease import LIFETIME_S

    use_credentials()
    try:
        content = file.open("rb")
    except OSError as error:
        raise typer.BadParameter(f"{file} cannot be read: {error.strerror}.") from error
    with exit_on_signals(), content:
        head = content.peek(2)[:2]
        created = Sandbox.create(
            template,
            vcpus=vcpus,
            memory_mb=memory,
            disk_size_mb=disk,
            # From the start: this program may be killed before it knows the id.
            lifetime_sec=LIFETIME_S,
            on_expiry="kill",
            lift_on_pause=True,
        )
        with created as sandbox:
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
            with stream, interrupt_on_ctrl_c(stream):
                if stdin:
                    feed_stdin(stream)
                code = copy_out(stream)
    raise typer.Exit(code & 0xFF)


def command_of(path: str, *, has_shebang: bool) -> list[str]:
    """Return the command that runs a file with this name."""
    interpreter = [] if has_shebang else _INTERPRETERS.get(PurePosixPath(path).suffix, [])
    return [*interpreter, path]
