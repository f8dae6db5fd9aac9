"""`wrenn exec`: runs a command in a sandbox and shows its output."""

from __future__ import annotations

import sys
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, ClassVar

import typer
from typer._click import Context
from typer.core import TyperCommand

from wrenn.cli.exits import Exit
from wrenn.cli.following import copy_out, exit_on_signals, feed_stdin, interrupt_on_ctrl_c
from wrenn.cli.output import JsonOption, print_json
from wrenn.cli.sandboxes import EnvOption, variables
from wrenn.cli.settings import use_credentials
from wrenn.protocol.api import SHELL

if TYPE_CHECKING:
    from wrenn.sdk import ProcessStream, Sandbox


class CommandLine(TyperCommand):
    """Passes everything from the second word on unchanged, so that options of the command need no `--` before them."""

    from_second_word: ClassVar[bool] = True

    def parse_args(self, ctx: Context, args: list[str]) -> list[str]:
        """Insert a `--` before the command, unless there is one."""
        flags = {
            name
            for param in self.params
            if getattr(param, "is_flag", False)
            for name in (*param.opts, *param.secondary_opts)
        } | {"--help", "-h"}
        words, position = 0, 0
        while position < len(args) and args[position] != "--":
            argument = args[position]
            if not argument.startswith("-"):
                words += 1
                begins = position if self.from_second_word else position + 1
                if words == (2 if self.from_second_word else 1) and args[begins : begins + 1] != ["--"]:
                    args = [*args[:begins], "--", *args[begins:]]
                    break
            elif not _is_flag(argument, flags) and "=" not in argument:
                position += 1
            position += 1
        return super().parse_args(ctx, args)


def _is_flag(argument: str, flags: set[str]) -> bool:
    """Whether the argument is an option without a value, or several in one word such as `-it`."""
    if argument in flags:
        return True
    return not argument.startswith("--") and all(f"-{letter}" in flags for letter in argument[1:])


class FileLine(CommandLine):
    """Passes everything after the first word unchanged, including options."""

    from_second_word = False


@dataclass(frozen=True, slots=True)
class _Command:
    """What to run, and how."""

    words: list[str]
    cwd: str | None
    envs: dict[str, str]
    user: str | None
    timeout_s: float | None

    @property
    def line(self) -> str | list[str]:
        """One word is a shell command line; several are started without a shell."""
        return self.words[0] if len(self.words) == 1 else self.words

    @property
    def in_terminal(self) -> list[str]:
        """The same for a program in a terminal; without a word, the user's shell."""
        return [SHELL, "-c", *self.words] if len(self.words) == 1 else self.words or [SHELL]


def exec_(
    sandbox_id: Annotated[str, typer.Argument(metavar="ID", help="The sandbox.")],
    command: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[--] CMD...",
            help="One word is run by the shell. Optional with --tty, which runs the user's shell.",
            show_default=False,
        ),
    ] = None,
    *,
    stdin: Annotated[
        bool | None,
        typer.Option(
            "--stdin/--no-stdin",
            "-i/-n",
            help="Forward standard input. Default: if it is not a terminal.",
            show_default=False,
        ),
    ] = None,
    tty: Annotated[
        bool, typer.Option("--tty", "-t", help="Run it in a terminal that is connected to this one.")
    ] = False,
    cwd: Annotated[str | None, typer.Option(help="Working directory.")] = None,
    env: EnvOption = None,
    user: Annotated[str | None, typer.Option(help="User of the sandbox to run as.")] = None,
    timeout: Annotated[
        float, typer.Option(metavar="SECONDS", min=0, help="Kill it after this long; 0: no limit.")
    ] = 0,
    tag: Annotated[str | None, typer.Option(help="Name of a background process.")] = None,
    background: Annotated[
        bool, typer.Option("--background", "-d", help="Print the pid and return at once.")
    ] = False,
    json: JsonOption = False,
) -> None:
    """Run a command in a sandbox.

    The output is shown as it is written, and the exit code is that of the command: 128 + the number of the
    signal that terminated it, or 124 if it was killed at the time limit. Several words are started without a
    shell; a single word is run by bash -c, or sh -c in an image without bash. Options must precede CMD.

    Standard input is forwarded if it is not a terminal, or with -i; in a loop that reads lines, use -n.
    Ctrl-C sends SIGINT to the command, a second one kills it. The command is also killed when this program
    ends; with --background it keeps running.

    With --tty keystrokes are forwarded unchanged, including Ctrl-C; Enter, then ~. leaves and kills the
    command.
    """
    from wrenn.sdk import Sandbox

    if not command and not tty:
        raise typer.BadParameter("CMD is missing; with --tty it may be left out.")
    given = _Command(command or [], cwd, variables(env), user, timeout or None)
    if background and (tty or stdin or timeout):
        raise typer.BadParameter("--background goes with none of --stdin, --tty and --timeout.")
    if tty and (json or stdin is False):
        raise typer.BadParameter("--tty goes with neither --json nor --no-stdin.")
    if tty and not _stdin_is_terminal():
        raise typer.BadParameter("--tty needs a terminal as standard input: leave it out.")
    if tag is not None and not background:
        raise typer.BadParameter("--tag names a background process: add --background.")
    use_credentials()
    with exit_on_signals():
        sandbox = Sandbox.connect(sandbox_id, resume=False)
        if background:
            _start(sandbox, given, tag, json=json)
            code = 0
        elif tty:
            code = _run_in_terminal(sandbox, given)
        else:
            passes_stdin = stdin if stdin is not None else sys.stdin is not None and not sys.stdin.isatty()
            code = _run(sandbox, given, stdin=passes_stdin, json=json)
        sandbox.close()
    raise typer.Exit(code & 0xFF)


def _stdin_is_terminal() -> bool:
    return sys.stdin is not None and sys.stdin.isatty()


def _start(sandbox: Sandbox, command: _Command, tag: str | None, *, json: bool) -> None:
    process = sandbox.commands.run(
        command.line, envs=command.envs, cwd=command.cwd, user=command.user, background=True, tag=tag
    )
    if json:
        print_json({"pid": process.pid, "tag": process.tag})
    else:
        sys.stdout.write(f"{process.pid} {process.tag}\n")


def _run_in_terminal(sandbox: Sandbox, command: _Command) -> int:
    from wrenn.cli.attached import attach, terminal_envs
    from wrenn.cli.raw_terminal import size

    cols, rows = size(sys.stdin.fileno())
    terminal = sandbox.pty.create(
        command.in_terminal,
        cols=cols,
        rows=rows,
        envs=terminal_envs(command.envs),
        cwd=command.cwd,
        user=command.user,
        on_disconnect="kill",
    )
    return attach(terminal, timeout_s=command.timeout_s)


def _run(sandbox: Sandbox, command: _Command, *, stdin: bool, json: bool) -> int:
    stream = sandbox.commands.stream(
        command.line,
        envs=command.envs,
        cwd=command.cwd,
        user=command.user,
        stdin=stdin,
        timeout_s=command.timeout_s,
    )
    with stream, interrupt_on_ctrl_c(stream):
        if stdin:
            feed_stdin(stream)
        code = _print_result(stream) if json else copy_out(stream)
    if stream.out_of_memory:
        sys.stderr.write(
            "wrenn: The command ran out of memory; `wrenn create --memory` gives a sandbox more.\n"
        )
    return code


def _print_result(stream: ProcessStream) -> int:
    """Print how the command ended and the end of its output as one JSON object, also after its time limit."""
    from wrenn.sdk import CommandResult, DeadlineExceededError
    from wrenn.sdk._tail import Tail

    begun = time.monotonic()
    tails = {"stdout": Tail(), "stderr": Tail()}
    timed_out = False
    try:
        for output in stream:
            tails[output.stream].add(output.data)
    except DeadlineExceededError:
        timed_out = True
    code = Exit.TIMEOUT if stream.exit_code is None else stream.exit_code
    duration_ms = round((time.monotonic() - begun) * 1000)
    result = CommandResult(tails["stdout"].data(), tails["stderr"].data(), code, duration_ms)
    fields = {name: getattr(result, name) for name in ("stdout", "stderr", "exit_code", "duration_ms")}
    how = {"signal": stream.exit_signal, "out_of_memory": stream.out_of_memory}
    truncated = any(tail.is_truncated for tail in tails.values())
    print_json(fields | how | {"timed_out": timed_out, "truncated": truncated})
    return code
