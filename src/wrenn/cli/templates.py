"""`wrenn snapshot` and `wrenn templates`."""

from __future__ import annotations

import sys
from typing import Annotated, Literal
from urllib.parse import quote

import typer

from wrenn.cli.build import import_image
from wrenn.cli.build_display import printable
from wrenn.cli.each import do_each
from wrenn.cli.lifecycle import IdArgument
from wrenn.cli.output import JsonOption, age, print_json, print_table, size
from wrenn.cli.settings import use_credentials

app = typer.Typer(
    help="Templates, from which sandboxes are created.", no_args_is_help=True, rich_markup_mode=None
)

ReferenceArgument = Annotated[
    str,
    typer.Argument(metavar="TEMPLATE", help="NAME (its latest version), NAME:TAG, or the id of a version."),
]


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
            ",".join(template.tags),
        )
        for template in found
    ]
    print_table(("NAME", "TYPE", "VCPUS", "MEMORY", "SIZE", "AGE", "OWNER", "TAGS"), rows)


@app.command("show")
def show(reference: ReferenceArgument, *, json: JsonOption = False) -> None:
    """Show one version of a template."""
    from wrenn.sdk import Template

    use_credentials()
    found = Template.get(reference)
    if json:
        print_json(found)
        return
    facts = {
        "id": found.id,
        "name": found.name,
        "tags": ", ".join(found.tags),
        "type": found.type,
        "vcpus": found.vcpus,
        "memory": f"{found.memory_mb} MB" if found.memory_mb else None,
        "disk": f"{found.disk_size_mb} MB" if found.disk_size_mb else None,
        "size": size(found.size_bytes) if found.size_bytes else None,
        "user": found.default_user,
        "directory": found.working_dir,
        "build": found.build_id,
        "created": found.created_at.astimezone().strftime("%Y-%m-%d %H:%M:%S"),
        "owner": "platform" if found.platform else "team",
    }
    pairs = [(label, str(value)) for label, value in facts.items() if value]
    pairs += [("env", f"{name}={value}") for name, value in found.default_env.items()]
    pairs += [("label", f"{name}={value}") for name, value in found.labels.items()]
    for label, value in pairs:
        sys.stdout.write(f"{label:<10} {printable(value)}\n")


@app.command("tag")
def tag(
    reference: ReferenceArgument,
    new_tag: Annotated[str, typer.Argument(metavar="TAG", help="The tag, for example latest.")],
    *,
    json: JsonOption = False,
) -> None:
    """Let a tag refer to a version of a template.

    NAME alone is NAME:latest, so `wrenn templates tag app:1 latest` rolls back to version 1. A version that loses its last
    tag is removed.
    """
    from wrenn.sdk import Template

    use_credentials()
    tagged = Template.set_tag(reference, new_tag)
    if json:
        print_json(tagged)
    else:
        sys.stdout.write(f"{tagged.name}:{new_tag}\n")


app.command("import")(import_image)


@app.command("rm")
def rm(
    names: Annotated[list[str], typer.Argument(metavar="NAME...", help="Templates to remove.")],
    *,
    platform: Annotated[
        bool,
        typer.Option(
            "--platform", help="Templates of the platform: for its admins, with the session of `wrenn login`."
        ),
    ] = False,
    json: JsonOption = False,
) -> None:
    """Remove templates: NAME with all its versions, a tag NAME:TAG, or one version by its id.

    Sandboxes created from them are not affected.

    Continues after a failure; the exit code is that of the last failure.
    """
    from wrenn.sdk import Sandbox

    if not platform:
        use_credentials()
        do_each(names, Sandbox.delete_template, done="removed", json=json)
        return
    from wrenn.cli import credentials

    with credentials.account() as account:

        def delete(name: str) -> None:
            account.call("DELETE", f"/v1/admin/templates/{quote(name, safe='')}")

        do_each(names, delete, done="removed", json=json)
