"""`wrenn shell`: a terminal in a sandbox."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated

import typer

from wrenn.cli.attached import attach, terminal_envs
from wrenn.cli.sandboxes import EnvOption, variables
from wrenn.cli.settings import use_credentials
from wrenn.protocol.api import SHELL

if TYPE_CHECKING:
    from wrenn.sdk import Sandbox, Terminal


def shell(
    sandbox_id: Annotated[str, typer.Argument(metavar="ID", help="The sandbox.")],
    command: Annotated[
        list[str] | None,
        typer.Argument(metavar="[--] [CMD...]", help="Program to run instead of the user's shell."),
    ] = None,
    *,
    tag: Annotated[
        str | None,
        typer.Option(
            help="Name of the terminal, which then keeps running when you leave; if one with this name runs, attach to it."
        ),
    ] = None,
    cwd: Annotated[str | None, typer.Option(help="Working directory.")] = None,
    env: EnvOption = None,
    user: Annotated[str | None, typer.Option(help="User of the sandbox to run as.")] = None,
) -> None:
    """Open a terminal in a sandbox.

    It runs the login shell of the user there, or bash, or sh in an image without bash. Keystrokes are
    forwarded unchanged, including Ctrl-C; the exit code is that of the program, or 128 + the number of the
    signal that terminated it. Enter, then ~. leaves: the program is killed, unless it was named with --tag.
    """
    from wrenn.sdk import Sandbox

    if not (sys.stdin.isatty() and sys.stdout.isatty()):
        raise typer.BadParameter("this is no terminal: use `wrenn exec` for a command.")
    use_credentials()
    sandbox = Sandbox.connect(sandbox_id)
    terminal = _opened(sandbox, command or [SHELL], tag=tag, envs=variables(env), cwd=cwd, user=user)
    code = attach(terminal)
    sandbox.close()
    raise typer.Exit(code)


def _opened(
    sandbox: Sandbox,
    command: list[str],
    *,
    tag: str | None,
    envs: dict[str, str],
    cwd: str | None,
    user: str | None,
) -> Terminal:
    from wrenn.cli.raw_terminal import size
    from wrenn.sdk import NotFoundError

    cols, rows = size(sys.stdout.fileno())
    if tag is not None:
        try:
            terminal = sandbox.pty.connect(tag)
        except NotFoundError:
            pass
        else:
            if terminal.pid:
                terminal.resize(cols, rows)
                return terminal
    return sandbox.pty.create(
        command,
        cols=cols,
        rows=rows,
        envs=terminal_envs(envs),
        cwd=cwd,
        user=user,
        tag=tag,
        on_disconnect="keep" if tag else "kill",
    )
