"""`wrenn create`, `wrenn list`, `wrenn rm`."""

from __future__ import annotations

import os
import sys
from contextlib import closing
from typing import TYPE_CHECKING, Annotated

import typer

from wrenn.cli.each import do_each
from wrenn.cli.lifecycle import IdArgument, IdleOption, LifetimeOption, OnExpiryOption
from wrenn.cli.network import AllowOption, DenyOption, policy_of
from wrenn.cli.output import JsonOption, age, print_json, print_table, until
from wrenn.cli.settings import use_credentials

if TYPE_CHECKING:
    from wrenn.sdk import SandboxInfo

LabelOption = Annotated[
    list[str] | None,
    typer.Option("--label", "-l", metavar="K=V", help="A metadata entry. Repeatable."),
]
NameFilter = Annotated[str | None, typer.Option("--name", help="Only with this name; * matches any text.")]
StateFilter = Annotated[
    list[str] | None, typer.Option("--state", help="Only in this state, e.g. paused. Repeatable.")
]
EnvOption = Annotated[
    list[str] | None,
    typer.Option(
        "--env",
        "-e",
        metavar="K=V",
        help="Set an environment variable; K alone passes on that of this command, which no process list shows. Repeatable.",
    ),
]


def create(
    *,
    template: Annotated[
        str,
        typer.Option(
            help="Template to start from; one made by `wrenn snapshot` determines CPUs, memory and disk."
        ),
    ] = "minimal",
    vcpus: Annotated[int | None, typer.Option(help="Virtual CPUs.")] = None,
    memory: Annotated[int | None, typer.Option(metavar="MB", help="Memory in MB.")] = None,
    disk: Annotated[int | None, typer.Option(metavar="MB", help="Disk size in MB.")] = None,
    timeout: IdleOption = None,
    lifetime: LifetimeOption = None,
    on_expiry: OnExpiryOption = None,
    auto_resume: Annotated[
        bool, typer.Option("--auto-resume", help="Resume it on the next call after it was paused.")
    ] = False,
    env: EnvOption = None,
    public_port: Annotated[
        list[int] | None,
        typer.Option(
            metavar="PORT",
            min=1,
            max=65535,
            help="Make this port accessible without credentials. Repeatable.",
        ),
    ] = None,
    no_internet: Annotated[
        bool, typer.Option("--no-internet", help="Block all destinations except those in --allow.")
    ] = False,
    allow: AllowOption = None,
    deny: DenyOption = None,
    name: Annotated[str | None, typer.Option(help="Display name; need not be unique.")] = None,
    label: LabelOption = None,
    host_tag: Annotated[
        list[str] | None,
        typer.Option(metavar="TAG", help="Only on a host with this tag. Repeatable: with all of them."),
    ] = None,
    json: JsonOption = False,
) -> None:
    """Create a sandbox and print its id."""
    from wrenn.sdk import Sandbox

    use_credentials()
    sandbox = Sandbox.create(
        template,
        vcpus=vcpus,
        memory_mb=memory,
        disk_size_mb=disk,
        timeout_sec=timeout,
        lifetime_sec=lifetime,
        on_expiry=on_expiry,
        auto_resume=auto_resume or None,
        envs=variables(env),
        public_ports=public_port,
        network=policy_of(internet=not no_internet, allow=allow, deny=deny),
        name=name,
        metadata=variables(label, option="--label"),
        host_tags=host_tag,
    )
    if json:
        print_json(sandbox.info())
    else:
        sys.stdout.write(f"{sandbox.id}\n")
    sandbox.close()


def list_(
    *,
    name: NameFilter = None,
    label: LabelOption = None,
    state: StateFilter = None,
    search: Annotated[
        str | None,
        typer.Option("--search", metavar="TEXT", help="Only with this text in id, name, template or labels."),
    ] = None,
    limit: Annotated[
        int | None, typer.Option(min=1, help="Maximum number of sandboxes, newest first.", show_default=False)
    ] = None,
    json: JsonOption = False,
) -> None:
    """List running and paused sandboxes."""
    from wrenn.sdk import Sandbox

    use_credentials()
    labels = variables(label, option="--label")
    found = Sandbox.list(name=name, metadata=labels, state=state or None, search=search, limit=limit)
    if json:
        print_json(found)
        return
    columns = ["ID", "STATUS", "TEMPLATE", "SIZE", "AGE"]
    rows = [[s.id, s.status, s.template, _size(s), age(s.created_at)] for s in found]
    ends = [_end(s) for s in found]
    if any(s.name for s in found):
        columns.insert(1, "NAME")
        rows = [[row[0], s.name or "", *row[1:]] for row, s in zip(rows, found, strict=True)]
    # Most sandboxes have no end, and with this column the table just fits 80 columns.
    if any(ends):
        columns.append("LIFETIME")
        rows = [[*row, end] for row, end in zip(rows, ends, strict=True)]
    print_table(columns, rows)


def set_(
    sandbox_id: IdArgument,
    *,
    name: Annotated[str | None, typer.Option("--name", help="What people call it; empty: no name.")] = None,
    label: Annotated[
        list[str] | None,
        typer.Option("--label", "-l", metavar="K=V", help="A metadata entry, in place of all. Repeatable."),
    ] = None,
    public_port: Annotated[
        list[int] | None,
        typer.Option(metavar="PORT", help="Port that needs no key, in place of all. Repeatable; 0: none."),
    ] = None,
    json: JsonOption = False,
) -> None:
    """Change the name, labels or public ports of a sandbox. What has no option is not changed."""
    from wrenn.sdk import Sandbox

    labels = variables(label, option="--label") if label else None
    ports = None if not public_port else [port for port in public_port if port != 0]
    use_credentials()
    with closing(Sandbox.connect(sandbox_id, resume=False)) as sandbox:
        info = sandbox.change(name=name, metadata=labels, public_ports=ports)
    if json:
        print_json(info)


def _size(info: SandboxInfo) -> str:
    whole_gb = info.memory_mb % 1024 == 0
    return f"{info.vcpus}×{f'{info.memory_mb // 1024} GB' if whole_gb else f'{info.memory_mb} MB'}"


def _end(info: SandboxInfo) -> str:
    """Describe what happens at the end of the lifetime, and when; empty if there is no end."""
    if info.expires_at is None or (info.status, info.on_expiry) == ("paused", "pause"):
        return ""
    return f"{info.on_expiry} {until(info.expires_at)}"


def rm(
    ids: Annotated[list[str], typer.Argument(metavar="ID...", help="Sandboxes to remove.")],
    *,
    json: JsonOption = False,
) -> None:
    """Remove sandboxes.

    Continues after a failure; the exit code is that of the last failure.
    """
    from wrenn.sdk import Sandbox

    def act(sandbox_id: str) -> None:
        Sandbox.connect(sandbox_id, resume=False).kill()

    use_credentials()
    do_each(ids, act, done="removed", json=json)


def variables(pairs: list[str] | None, *, option: str = "--env") -> dict[str, str]:
    """Parse the values of a repeated option such as `--env K=V`. As with docker, a name alone takes its value from the environment."""
    found: dict[str, str] = {}
    for pair in pairs or []:
        name, equals, value = pair.partition("=")
        if not name or (not equals and name not in os.environ):
            raise typer.BadParameter(
                f"{option} {pair}: expected NAME=VALUE, or the name of an environment variable."
            )
        found[name] = value if equals else os.environ[name]
    return found
