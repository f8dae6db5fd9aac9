"""`wrenn hosts`: the machines that run sandboxes."""

from __future__ import annotations

import sys
from collections.abc import Generator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated
from urllib.parse import quote

import typer

from wrenn.cli.output import JsonOption, age, print_json, print_table, until

if TYPE_CHECKING:
    from wrenn.sdk._parse import Fields
    from wrenn.sdk.account import Account

app = typer.Typer(help="Hosts: the machines that run sandboxes.", no_args_is_help=True, rich_markup_mode=None)

_PATH = "/v1/hosts"
_NAMED = 20
"""Sandboxes and templates that are listed when a host is to be deleted."""
HostArgument = Annotated[str, typer.Argument(metavar="HOST", help="Id or name of the host.")]
TagsArgument = Annotated[list[str], typer.Argument(metavar="TAG...", help="Tags of a-z, 0-9, `.`, `_`, `-`.")]


@contextmanager
def _at(host: str) -> Generator[tuple[Account, str]]:
    """Yield the session, and the API path of the host with this id, or else this name.

    Raises:
        NotFoundError: there is no such host. typer.BadParameter: several have this name, as teams name theirs themselves.
    """
    from wrenn.cli import credentials
    from wrenn.sdk._parse import objects
    from wrenn.sdk.errors import NotFoundError

    with credentials.account() as account:
        hosts = objects("host", account.call("GET", _PATH))
        ids = [fields.text("id") for fields in hosts if fields.text("id") == host]
        ids = ids or [fields.text("id") for fields in hosts if fields.text("name") == host]
        if not ids:
            raise NotFoundError(f"There is no host {host}.", status=404)
        if len(ids) > 1:
            raise typer.BadParameter(f"Several hosts are named {host}; give the id: {', '.join(ids)}.")
        yield account, f"{_PATH}/{ids[0]}"


@app.command("create")
def create(
    name: Annotated[
        str | None, typer.Option("--name", metavar="NAME", help="Its name. [default: one that is made up]")
    ] = None,
    *,
    team: Annotated[
        str | None,
        typer.Option(
            "--team", metavar="ID", help="A host of this team only (BYOC). [default: a host of the platform]"
        ),
    ] = None,
    provider: Annotated[
        str | None, typer.Option("--provider", help="Where the machine is, for people.")
    ] = None,
    zone: Annotated[str | None, typer.Option("--zone", help="Its availability zone, for people.")] = None,
    json: JsonOption = False,
) -> None:
    """Create a host, and print the one-time token with which its agent registers within an hour.

    On the machine: `wrenn agent join URL --token -`, which reads the token from standard input. A host of the platform needs an admin of the platform; a
    team's own host needs an admin of that team, for which an admin of the platform has enabled BYOC.
    """
    from wrenn.cli import credentials

    body: dict[str, object] = {"type": "regular" if team is None else "byoc"}
    given = {"name": name, "team_id": team, "provider": provider, "availability_zone": zone}
    body.update({field: value for field, value in given.items() if value is not None})
    with credentials.account() as account:
        made = account.call("POST", _PATH, body)
    _print_token(made, json=json)


@app.command("token")
def token(
    host: HostArgument,
    *,
    force: Annotated[
        bool,
        typer.Option("--force", help="Also for a host that is online: its credentials stop working at once."),
    ] = False,
    json: JsonOption = False,
) -> None:
    """Print a new one-time token for a host that has not registered yet, or that is not heard of.

    The agent that registers with it takes the host over, with its sandboxes; earlier tokens of the host stop
    working.
    """
    with _at(host) as (account, path):
        made = account.call("POST", f"{path}/token", params={"force": "true"} if force else None)
    _print_token(made, json=json)


def _print_token(made: object, *, json: bool) -> None:
    from wrenn.sdk._parse import Fields

    if json:
        print_json(made)
        return
    fields = Fields("host", made)
    host = fields.object("host")
    sys.stderr.write(f"{host.text('id')} waits for its agent. The token is valid for an hour, once:\n")
    sys.stdout.write(fields.text("registration_token") + "\n")


@app.command("list")
def list_(*, json: JsonOption = False) -> None:
    """List the hosts: all of them for an admin of the platform, otherwise your team's own."""
    from wrenn.cli import credentials
    from wrenn.sdk._parse import objects

    with credentials.account() as account:
        found = account.call("GET", _PATH)
    if json:
        print_json(found)
        return
    rows = [
        (
            host.text("id"),
            host.text("name"),
            host.text("type"),
            _status(host),
            host.optional_text("address") or "-",
            _sizes(host),
            age(seen) if (seen := host.optional_time("last_heartbeat_at")) else "never",
            ", ".join(host.texts("tags")) or "-",
        )
        for host in objects("host", found)
    ]
    print_table(("ID", "NAME", "TYPE", "STATUS", "ADDRESS", "SIZE", "HEARD", "TAGS"), rows)


def _status(host: Fields) -> str:
    """Format the status of a host, and whether it is drained."""
    drain = host.optional_object("drain")
    return host.text("status") if drain is None else f"{host.text('status')}, {drain.text('state')}"


def _sizes(host: Fields) -> str:
    """Format cores, memory and disk of a host."""
    cores, memory_mb, disk_gb = (
        host.optional_integer(name) for name in ("cpu_cores", "memory_mb", "disk_gb")
    )
    if not cores:
        return "-"
    return f"{cores} CPU, {(memory_mb or 0) / 1024:.0f} GB, {disk_gb or 0} GB disk"


@app.command("show")
def show(host: HostArgument, *, json: JsonOption = False) -> None:
    """Show one host, and while it is drained how far that is."""
    from wrenn.cli.drain import summary
    from wrenn.sdk._parse import Fields

    with _at(host) as (account, path):
        found = account.call("GET", path)
    if json:
        print_json(found)
        return
    fields = Fields("host", found)
    rows = [
        ("id", fields.text("id")),
        ("name", fields.text("name")),
        ("type", fields.text("type")),
        ("team", fields.optional_text("team_id")),
        ("status", _status(fields)),
        ("sandboxes", summary(drain) if (drain := fields.optional_object("drain")) else None),
        ("address", fields.optional_text("address")),
        ("size", _sizes(fields)),
        ("architecture", fields.optional_text("arch")),
        ("accelerator", fields.optional_text("accelerator")),
        ("agent", fields.optional_text("agent_version")),
        ("provider", fields.optional_text("provider")),
        ("zone", fields.optional_text("availability_zone")),
        ("tags", ", ".join(fields.texts("tags"))),
        ("heard", f"{age(seen)} ago" if (seen := fields.optional_time("last_heartbeat_at")) else "never"),
        ("certificate", until(end) if (end := fields.optional_time("cert_expires_at")) else None),
        ("created", f"{age(fields.time('created_at'))} ago"),
    ]
    print_table(("FIELD", "VALUE"), [(name, value) for name, value in rows if value])


@app.command("explain")
def explain(
    *,
    template: Annotated[str, typer.Option(help="Template to start from.")] = "minimal",
    vcpus: Annotated[int | None, typer.Option(min=1, help="Virtual CPUs.")] = None,
    memory: Annotated[int | None, typer.Option(min=1, metavar="MB", help="Memory in MB.")] = None,
    disk: Annotated[int | None, typer.Option(min=1, metavar="MB", help="Disk size in MB.")] = None,
    team: Annotated[
        str | None,
        typer.Option(metavar="ID", help="Whose sandbox. [default: a team without hosts of its own]"),
    ] = None,
    host_tag: Annotated[
        list[str] | None, typer.Option(metavar="TAG", help="Only hosts with this tag. Repeatable.")
    ] = None,
    json: JsonOption = False,
) -> None:
    """Show where a sandbox would be placed now, and what keeps it from each other host. For admins of the platform.

    REMOVED BY is the first filter that the host does not pass. Otherwise SCORE is the fraction of its scarcest
    resource that would be left; the host with the highest score is chosen.
    """
    from urllib.parse import urlencode

    from wrenn.cli import credentials
    from wrenn.sdk._parse import Fields

    asked = {"template": template, "vcpus": vcpus, "memory_mb": memory, "disk_size_mb": disk, "team_id": team}
    query = [(name, str(value)) for name, value in asked.items() if value is not None]
    query += [("host_tags", tag) for tag in host_tag or ()]
    with credentials.account() as account:
        found = account.call("GET", f"{_PATH}/explain?{urlencode(query)}")
    if json:
        print_json(found)
        return
    placement = Fields("placement", found)
    rows = [
        (
            host.text("id"),
            host.text("name"),
            host.optional_text("removed_by") or "-",
            _score(host),
            str(host.integer("sandboxes")),
            str(host.integer("creates")),
        )
        for host in placement.objects("hosts", "host")
    ]
    print_table(("ID", "NAME", "REMOVED BY", "SCORE", "SANDBOXES", "CREATES"), rows)
    refusal = placement.optional_text("refusal")
    sys.stderr.write(f"{refusal or 'Chosen: ' + placement.text('host_id')}\n")


def _score(host: Fields) -> str:
    """Format the score of a host; one that is not ready comes last, whatever its score."""
    score = host.optional_number("score")
    if score is None:
        return "-"
    return f"{score:.2f}" if host.flag("is_ready") else f"{score:.2f} (last)"


@app.command("drain")
def drain(
    host: HostArgument,
    *,
    pause: Annotated[
        bool,
        typer.Option(
            "--pause/--wait",
            help="Pause the sandboxes that run there, or wait until they end or are paused by others.",
        ),
    ] = False,
    move: Annotated[
        bool,
        typer.Option(
            "--move",
            help="Move the sandboxes to other hosts, paused ones too; those that ran are resumed there.",
        ),
    ] = False,
    timeout: Annotated[
        float | None,
        typer.Option("--timeout", metavar="SECONDS", min=1, help="How long to wait. [default: no limit]"),
    ] = None,
    detach: Annotated[
        bool, typer.Option("--detach", help="Begin the drain, and do not wait until it is done.")
    ] = False,
) -> None:
    """Start nothing on a host any more, and wait until no sandbox is in its memory.

    Sandboxes whose files lie there are not resumed or forked meanwhile. Nothing is forced: a sandbox that cannot be
    paused or moved stays as it is, is named, and is tried again. After a timeout and after Ctrl-C the drain stays in force, until
    `wrenn hosts uncordon`. May be repeated, also to change between --wait, --pause and --move.
    """
    from wrenn.cli.drain import follow
    from wrenn.cli.exits import Exit
    from wrenn.cli.up.progress import Progress
    from wrenn.sdk.errors import DeadlineExceededError

    if move and pause:
        raise typer.BadParameter("--move and --pause exclude each other.")
    policy = "move" if move else "pause" if pause else "wait"
    with _at(host) as (account, path):
        account.call("POST", f"{path}/drain", {"policy": policy})
    in_force = f"The drain stays in force: `wrenn hosts uncordon {host}` takes it back.\n"
    if detach:
        sys.stderr.write(in_force)
        return
    progress = Progress()
    try:
        with progress.step(f"drain {host}"):
            follow(path, progress, timeout_s=timeout)
    except KeyboardInterrupt:
        sys.stderr.write(in_force)
        raise typer.Exit(Exit.INTERRUPTED) from None
    except DeadlineExceededError:
        sys.stderr.write(in_force)
        raise
    sys.stderr.write(f"{host} is drained. `wrenn hosts uncordon {host}` puts it back into use.\n")


@app.command("uncordon")
def uncordon(host: HostArgument) -> None:
    """Use a host again that was drained, or is. What was paused there stays paused until somebody resumes it."""
    with _at(host) as (account, path):
        account.call("POST", f"{path}/uncordon")
    sys.stderr.write(f"{host} is used again.\n")


@app.command("delete")
def delete(
    host: HostArgument,
    *,
    force: Annotated[
        bool,
        typer.Option("--force", help="Also end its sandboxes and delete its templates, with all their data."),
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask for confirmation.")] = False,
) -> None:
    """Delete a host. Its agent removes what is left there, and exits.

    A host that has sandboxes, running or paused, or templates made from snapshots is only deleted with --force. They are listed.
    """
    from wrenn.sdk._parse import Fields

    with _at(host) as (account, path):
        preview = Fields("preview", account.call("GET", f"{path}/delete-preview"))
        lost = [*preview.texts("sandbox_ids"), *preview.texts("template_names")]
        sandboxes, templates = len(preview.texts("sandbox_ids")), len(preview.texts("template_names"))
        sys.stderr.write("".join(f"  {name}\n" for name in lost[:_NAMED]))
        if len(lost) > _NAMED:
            sys.stderr.write(f"  and {len(lost) - _NAMED} more\n")
        if force and (sandboxes or templates) and not yes:
            typer.confirm(
                f"Delete {host} with {sandboxes} sandboxes and {templates} templates, and all their data?",
                abort=True,
            )
        account.call("DELETE", path, params={"force": "true"} if force else None)
    sys.stderr.write(f"{host} is deleted.\n")


tags_app = typer.Typer(help="Tags of a host.", no_args_is_help=True, rich_markup_mode=None)
app.add_typer(tags_app, name="tags")


@tags_app.command("list")
def list_tags(host: HostArgument, *, json: JsonOption = False) -> None:
    """List the tags of a host."""
    from wrenn.sdk._parse import Fields

    with _at(host) as (account, path):
        found = account.call("GET", f"{path}/tags")
    if json:
        print_json(found)
        return
    for tag in Fields("host", {"tags": found}).texts("tags"):
        sys.stdout.write(f"{tag}\n")


@tags_app.command("add")
def add_tags(host: HostArgument, tags: TagsArgument) -> None:
    """Add tags to a host. Idempotent."""
    with _at(host) as (account, path):
        for tag in tags:
            account.call("POST", f"{path}/tags", {"tag": tag})


@tags_app.command("remove")
def remove_tags(host: HostArgument, tags: TagsArgument) -> None:
    """Remove tags from a host. Idempotent."""
    with _at(host) as (account, path):
        for tag in tags:
            account.call("DELETE", f"{path}/tags/{quote(tag, safe='')}")
