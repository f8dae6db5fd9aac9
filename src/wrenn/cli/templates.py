"""`wrenn snapshot` and `wrenn templates`."""

from __future__ import annotations

import sys
from typing import Annotated, Literal

import typer

from wrenn.cli.each import do_each
from wrenn.cli.lifecycle import IdArgument
from wrenn.cli.output import JsonOption, age, print_json, print_table, size
from wrenn.cli.settings import use_credentials

app = typer.Typer(
    help="Templates, from which sandboxes are created.", no_args_is_help=True, rich_markup_mode=None
)


def snapshot(
    sandbox_id: IdArgument,
    *,
    name: Annotated[str | None, typer.Option(help="Name of the template. [default: generated]")] = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace an existing template with this name.")
    ] = False,
    json: JsonOption = False,
) -> None:
    """Create a template from the current state of a sandbox.

    Prints its name. `wrenn create --template NAME` starts from it, with the processes running. The sandbox
    itself keeps running.
    """
    from wrenn.sdk import Sandbox

    use_credentials()
    sandbox = Sandbox.connect(sandbox_id, resume=False)
    template = sandbox.snapshot(name, overwrite=overwrite)
    sandbox.close()
    if json:
        print_json(template)
    else:
        sys.stdout.write(f"{template.name}\n")


@app.command("list")
def list_(
    *,
    type_: Annotated[
        Literal["base", "snapshot"] | None, typer.Option("--type", help="Only this type.")
    ] = None,
    json: JsonOption = False,
) -> None:
    """List the templates."""
    from wrenn.sdk import Sandbox

    use_credentials()
    found = Sandbox.templates(type_)
    if json:
        print_json(found)
        return
    rows = [
        (
            template.name,
            template.type,
            str(template.vcpus or "any"),
            f"{template.memory_mb} MB" if template.memory_mb else "any",
            size(template.size_bytes) if template.size_bytes else "-",
            age(template.created_at),
            "platform" if template.platform else "team",
        )
        for template in found
    ]
    print_table(("NAME", "TYPE", "VCPUS", "MEMORY", "SIZE", "AGE", "OWNER"), rows)


@app.command("rm")
def rm(
    names: Annotated[list[str], typer.Argument(metavar="NAME...", help="Templates to remove.")],
    *,
    json: JsonOption = False,
) -> None:
    """Remove templates; sandboxes created from them are not affected.

    Continues after a failure; the exit code is that of the last failure.
    """
    from wrenn.sdk import Sandbox

    use_credentials()
    do_each(names, Sandbox.delete_template, done="removed", json=json)
