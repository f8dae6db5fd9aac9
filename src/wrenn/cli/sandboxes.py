"""`wrenn create`, `wrenn list`, `wrenn rm`."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from wrenn.cli.exits import Exit, exit_code, say_error
from wrenn.cli.output import JsonOption, age, print_json, print_table
from wrenn.cli.settings import use_credentials

EnvOption = Annotated[
    list[str] | None, typer.Option("--env", "-e", metavar="K=V", help="Set a variable. Repeatable.")
]


def create(
    *,
    template: Annotated[str, typer.Option(help="Template to start from.")] = "minimal",
    vcpus: Annotated[int | None, typer.Option(help="Virtual CPUs.")] = None,
    memory: Annotated[int | None, typer.Option(metavar="MB", help="Memory in MB.")] = None,
    timeout: Annotated[
        int | None, typer.Option(metavar="SECONDS", help="Remove it after this long without use.")
    ] = None,
    env: EnvOption = None,
    json: JsonOption = False,
) -> None:
    """Create a sandbox and print its id."""
    from wrenn.sdk import Sandbox

    use_credentials()
    sandbox = Sandbox.create(
        template, vcpus=vcpus, memory_mb=memory, timeout_sec=timeout, envs=variables(env)
    )
    if json:
        print_json(sandbox.info())
    else:
        sys.stdout.write(f"{sandbox.id}\n")
    sandbox.close()


def list_(*, json: JsonOption = False) -> None:
    """List the sandboxes that have not ended."""
    from wrenn.sdk import Sandbox

    use_credentials()
    found = Sandbox.list()
    if json:
        print_json(found)
        return
    rows = [(s.id, s.status, s.template, str(s.vcpus), f"{s.memory_mb} MB", age(s.created_at)) for s in found]
    print_table(("ID", "STATUS", "TEMPLATE", "VCPUS", "MEMORY", "AGE"), rows)


def rm(
    ids: Annotated[list[str], typer.Argument(metavar="ID...", help="Sandboxes to remove.")],
    *,
    json: JsonOption = False,
) -> None:
    """Remove sandboxes.

    Goes on after one that fails; the exit code is that of the last failure.
    """
    from wrenn.sdk import Sandbox, WrennError

    use_credentials()
    outcome, code = dict[str, str](), Exit.OK
    for sandbox_id in ids:
        try:
            Sandbox.connect(sandbox_id).kill()
            outcome[sandbox_id] = "removed"
        except WrennError as error:
            say_error(error)
            outcome[sandbox_id], code = error.code, exit_code(error)
    if json:
        print_json(outcome)
    if code is not Exit.OK:
        raise typer.Exit(code)


def variables(pairs: list[str] | None) -> dict[str, str]:
    """The variables of repeated `--env K=V`."""
    split = [pair.partition("=") for pair in pairs or []]
    for name, equals, _ in split:
        if not name or not equals:
            raise typer.BadParameter("--env wants NAME=VALUE.")
    return {name: value for name, _, value in split}
