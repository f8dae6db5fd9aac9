"""`wrenn info`, `ls`, `ps`, `ports`, `console` and `download-link`: what is in a sandbox."""

from __future__ import annotations

import shlex
import sys
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast

import typer

from wrenn.cli.cp import parsed
from wrenn.cli.lifecycle import IdArgument
from wrenn.cli.network import summary
from wrenn.cli.output import JsonOption, age, print_json, print_table, size, until
from wrenn.cli.sandboxes import LabelOption, NameFilter, StateFilter, list_
from wrenn.cli.settings import use_credentials

if TYPE_CHECKING:
    from wrenn.sdk import GuestProcess, ProcessInfo, SandboxInfo


def info(sandbox_id: IdArgument, *, json: JsonOption = False) -> None:
    """Show the state of a sandbox; this does not count as use of it."""
    from wrenn.sdk import Sandbox

    use_credentials()
    with closing(Sandbox.connect(sandbox_id, resume=False)) as sandbox:
        found = sandbox.info()
    if json:
        print_json(found)
        return
    for name, value in _lines(found):
        sys.stdout.write(f"{name:<11}{value}\n")


def _lines(found: SandboxInfo) -> list[tuple[str, str]]:
    end = "no limit"
    if found.expires_at is not None:
        end = f"{found.on_expiry} {until(found.expires_at)}" + (
            ", unless it is paused before" if found.lift_on_pause else ""
        )
    return [
        ("id", found.id),
        *([("name", found.name)] if found.name else []),
        ("status", found.status),
        ("template", found.template),
        ("vcpus", str(found.vcpus)),
        ("memory", f"{found.memory_mb} MB"),
        ("age", age(found.created_at)),
        ("last use", f"{age(found.last_active_at)} ago" if found.last_active_at else "none"),
        ("idle", f"pause after {found.timeout_sec} s" if found.timeout_sec else "no limit"),
        ("lifetime", end),
        ("resume", "by the next call" if found.auto_resume else "by `wrenn resume`"),
        *([("made by", found.created_by.name)] if found.created_by else []),
        *([("build", found.build_id)] if found.build_id else []),
        *([("network", summary(found.network))] if found.network else []),
        ("ports", ", ".join(str(port) for port in found.public_ports) or "none public"),
        *(
            [("labels", ", ".join(f"{k}={v}" for k, v in sorted(found.metadata.items())))]
            if found.metadata
            else []
        ),
    ]


def ls(
    place: Annotated[
        str | None,
        typer.Argument(metavar="[ID[:PATH]]", help="A sandbox, or a file or folder in it; default: /."),
    ] = None,
    *,
    user: Annotated[str | None, typer.Option(help="User of the sandbox to act as.")] = None,
    name: NameFilter = None,
    label: LabelOption = None,
    state: StateFilter = None,
    json: JsonOption = False,
) -> None:
    """List the sandboxes; with an ID the files in one.

    Without an argument it is the same as `wrenn list`.
    """
    from wrenn.sdk import Sandbox

    if place is None:
        list_(name=name, label=label, state=state, json=json)
        return
    if name is not None or label or state:
        raise typer.BadParameter("--name, --label and --state choose sandboxes; leave out the ID.")
    where = parsed(place if ":" in place else f"{place}:/")
    if isinstance(where, Path):
        raise typer.BadParameter(f"{place!r} is neither ID nor ID:/path.")
    use_credentials()
    with closing(Sandbox.connect(where.sandbox_id, resume=False)) as sandbox:
        entry = sandbox.files.stat(where.path, user=user)
        entries = [entry] if entry.type == "file" else sandbox.files.list(where.path, user=user)
    if json:
        print_json(entries)
        return
    rows = [
        [
            e.name
            + (f" -> {e.symlink_target}" if e.symlink_target else "/" if e.type == "directory" else ""),
            e.permissions,
            f"{e.owner}:{e.group}",
            size(e.size),
            f"{e.modified_at:%Y-%m-%d %H:%M}",
        ]
        for e in sorted(entries, key=lambda e: e.name)
    ]
    print_table(["NAME", "MODE", "OWNER", "SIZE", "MODIFIED"], rows)


def ps(
    sandbox_id: IdArgument,
    *,
    every: Annotated[
        bool,
        typer.Option("--all", "-a", help="All processes in it, whoever started them, with what they use."),
    ] = False,
    json: JsonOption = False,
) -> None:
    """List the running processes of a sandbox that were started through the platform, or with --all every one."""
    from wrenn.sdk import Sandbox

    use_credentials()
    with closing(Sandbox.connect(sandbox_id, resume=False)) as sandbox:
        found = sandbox.processes() if every else sandbox.commands.list()
    if json:
        print_json(found)
        return
    if every:
        _print_all(cast("list[GuestProcess]", found))
        return
    rows = [[str(p.pid), p.tag or "", shlex.join([p.cmd, *p.args])] for p in cast("list[ProcessInfo]", found)]
    print_table(["PID", "TAG", "COMMAND"], rows)


def _print_all(found: list[GuestProcess]) -> None:
    rows = [
        [str(p.pid), p.user, p.state, f"{p.cpu_ms / 1000:.1f}", size(p.memory_bytes), p.tag or "", p.command]
        for p in found
    ]
    print_table(["PID", "USER", "STATE", "CPU S", "MEMORY", "TAG", "COMMAND"], rows)


def ports(sandbox_id: IdArgument, *, json: JsonOption = False) -> None:
    """List the ports on which programs in a sandbox accept connections."""
    from wrenn.sdk import Sandbox

    use_credentials()
    with closing(Sandbox.connect(sandbox_id, resume=False)) as sandbox:
        found = sandbox.ports()
    if json:
        print_json(found)
        return
    rows = [
        [str(p.port), p.name or "", ", ".join(p.addresses), "everybody" if p.public else "team", p.host]
        for p in found
    ]
    print_table(["PORT", "PROGRAM", "LISTENS ON", "ACCESS", "HOST"], rows)


def console(sandbox_id: IdArgument, *, json: JsonOption = False) -> None:
    """Print what the kernel and the first process of a sandbox wrote, the last 64 KiB of it.

    For a sandbox that does not answer: it is not asked.
    """
    from wrenn.sdk import Sandbox

    use_credentials()
    with closing(Sandbox.connect(sandbox_id, resume=False)) as sandbox:
        text = sandbox.console()
    if json:
        print_json({"text": text})
    else:
        # Whatever a guest writes must not control the terminal.
        sys.stdout.write("".join(c if c.isprintable() or c in "\t\n" else "" for c in text))


def download_link(
    source: Annotated[str, typer.Argument(metavar="ID:PATH", help="A file or directory of a sandbox.")],
    *,
    archive: Annotated[bool, typer.Option("--archive", help="A directory, as a tar archive.")] = False,
    json: JsonOption = False,
) -> None:
    """Print a URL with which a browser downloads a file once, without a key, within a minute."""
    from wrenn.sdk import Sandbox

    place = parsed(source)
    if isinstance(place, Path):
        raise typer.BadParameter("ID:PATH names the sandbox before the colon.")
    use_credentials()
    with closing(Sandbox.connect(place.sandbox_id, resume=False)) as sandbox:
        link = sandbox.files.download_link(place.path, archive=archive)
    if json:
        print_json(link)
    else:
        sys.stdout.write(f"{link.url}\n")
