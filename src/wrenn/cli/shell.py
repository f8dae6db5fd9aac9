"""`wrenn shell`: a terminal in a sandbox."""

from __future__ import annotations

import os
import select
import signal
import sys
import threading
from typing import TYPE_CHECKING, Annotated

import typer

from wrenn.cli.sandboxes import EnvOption, variables
from wrenn.cli.settings import use_credentials

if TYPE_CHECKING:
    from wrenn.sdk import Sandbox, Terminal

_READ_B = 64 * 1024


def shell(
    sandbox_id: Annotated[str, typer.Argument(metavar="ID", help="The sandbox.")],
    command: Annotated[
        list[str] | None, typer.Argument(metavar="[--] [CMD...]", help="Instead of /bin/bash.")
    ] = None,
    *,
    tag: Annotated[
        str | None,
        typer.Option(
            help="Name it, so that it goes on when you leave; with the name of one that runs, go back to it."
        ),
    ] = None,
    cwd: Annotated[str | None, typer.Option(help="Folder to begin in.")] = None,
    env: EnvOption = None,
    user: Annotated[str | None, typer.Option(help="User of the sandbox to be.")] = None,
) -> None:
    """Open a terminal in a sandbox.

    Keys go there as they are, Ctrl-C too; its exit code becomes that of this program. Enter, then ~. leaves: what runs ends, unless --tag named it.
    """
    from wrenn.sdk import Sandbox

    if not (sys.stdin.isatty() and sys.stdout.isatty()):
        raise typer.BadParameter("this is no terminal: use `wrenn exec` for a command.")
    use_credentials()
    sandbox = Sandbox.connect(sandbox_id)
    terminal = _opened(sandbox, command or ["/bin/bash"], tag=tag, envs=variables(env), cwd=cwd, user=user)
    code = _attach(terminal)
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
        envs={"TERM": os.environ.get("TERM", "xterm-256color"), **envs},
        cwd=cwd,
        user=user,
        tag=tag,
        on_disconnect="keep" if tag else "kill",
    )


def _attach(terminal: Terminal) -> int:
    """Tie our terminal to that one until it ends or we leave; returns the exit code."""
    from wrenn.cli.escape import Escape
    from wrenn.cli.raw_terminal import raw, size, woken_by

    keyboard, screen = sys.stdin.fileno(), sys.stdout.fileno()
    escape, failures = Escape(), list[BaseException]()
    ended_reading, ended_writing = os.pipe()

    def show() -> None:
        try:
            for data in terminal:
                view = memoryview(data)
                while view:
                    view = view[os.write(screen, view) :]
        except BaseException as error:  # noqa: BLE001 - told by the thread that started this one
            failures.append(error)
        finally:
            os.close(ended_writing)

    with raw(keyboard), woken_by(signal.SIGWINCH) as resized:
        showing = threading.Thread(target=show, daemon=True)
        showing.start()
        try:
            while not escape.left:
                ready, _, _ = select.select([keyboard, resized, ended_reading], [], [])
                if ended_reading in ready:
                    break
                if resized in ready:
                    os.read(resized, _READ_B)
                    terminal.resize(*size(screen))
                if keyboard in ready:
                    typed = os.read(keyboard, _READ_B)
                    if not typed:
                        break
                    if passed := escape.pass_on(typed):
                        terminal.send_input(passed)
        finally:
            terminal.close()
            showing.join()
            os.close(ended_reading)
    if terminal.exit_code is not None:
        return terminal.exit_code & 0xFF
    if not escape.left and failures:
        raise failures[0]
    return 0
