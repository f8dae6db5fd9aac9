"""`wrenn exec`: run a command in a sandbox."""

from __future__ import annotations

import sys
from typing import Annotated, ClassVar

import typer
from typer._click import Context
from typer.core import TyperCommand

from wrenn.cli.output import JsonOption, print_json
from wrenn.cli.sandboxes import EnvOption, variables
from wrenn.cli.settings import use_credentials


class CommandLine(TyperCommand):
    """Takes everything from the second word on as it is, so that its options need no `--` before them."""

    from_second_word: ClassVar[bool] = True

    def parse_args(self, ctx: Context, args: list[str]) -> list[str]:
        """Put a `--` where the command begins, unless there is one."""
        flags = {name for param in self.params for name in param.opts if getattr(param, "is_flag", False)}
        words, position = 0, 0
        while position < len(args) and args[position] != "--":
            argument = args[position]
            if not argument.startswith("-"):
                words += 1
                begins = position if self.from_second_word else position + 1
                if words == (2 if self.from_second_word else 1) and args[begins : begins + 1] != ["--"]:
                    args = [*args[:begins], "--", *args[begins:]]
                    break
            elif argument.startswith("-") and argument not in {*flags, "--help"} and "=" not in argument:
                position += 1
            position += 1
        return super().parse_args(ctx, args)


class FileLine(CommandLine):
    """Takes everything after the first word as it is, options too."""

    from_second_word = False


def exec_(
    sandbox_id: Annotated[str, typer.Argument(metavar="ID", help="The sandbox.")],
    command: Annotated[
        list[str], typer.Argument(metavar="[--] CMD...", help="One word goes through /bin/sh -c.")
    ],
    *,
    cwd: Annotated[str | None, typer.Option(help="Folder to run in.")] = None,
    env: EnvOption = None,
    user: Annotated[str | None, typer.Option(help="User of the sandbox to run as.")] = None,
    timeout: Annotated[float, typer.Option(metavar="SECONDS", help="Kill it after this long.")] = 30,
    tag: Annotated[str | None, typer.Option(help="Name of a background process.")] = None,
    background: Annotated[
        bool, typer.Option("--background", "-d", help="Print the pid and return at once.")
    ] = False,
    json: JsonOption = False,
) -> None:
    """Run a command in a sandbox.

    Its output and its exit code become those of this program.

    Options stand before CMD. Several words are started as they are; a single word goes through /bin/sh -c.
    """
    from wrenn.sdk import Sandbox

    use_credentials()
    sandbox = Sandbox.connect(sandbox_id, resume=False)
    cmd = command[0] if len(command) == 1 else command
    envs = variables(env)
    if background:
        process = sandbox.commands.run(cmd, envs=envs, cwd=cwd, user=user, background=True, tag=tag)
        sandbox.close()
        if json:
            print_json({"pid": process.pid, "tag": process.tag})
        else:
            sys.stdout.write(f"{process.pid} {process.tag}\n")
        return
    result = sandbox.commands.run(cmd, envs=envs, cwd=cwd, user=user, timeout_s=timeout)
    sandbox.close()
    if json:
        fields = ("stdout", "stderr", "exit_code", "duration_ms")
        print_json({name: getattr(result, name) for name in fields})
    else:
        sys.stdout.buffer.write(result.stdout_bytes)
        sys.stdout.flush()
        sys.stderr.buffer.write(result.stderr_bytes)
        sys.stderr.flush()
    raise typer.Exit(result.exit_code & 0xFF)
