"""`wrenn audit`: the team's audit log."""

from __future__ import annotations

import json as json_
import sys
from collections.abc import Mapping
from datetime import datetime  # typer reads the annotation
from typing import Annotated, cast

import typer

from wrenn.cli.output import JsonOption, print_json, print_table
from wrenn.cli.settings import use_credentials


def audit(
    *,
    limit: Annotated[int, typer.Option(min=1, help="Most entries to print.")] = 50,
    resource_type: Annotated[
        list[str] | None,
        typer.Option("--type", help="Only this resource type: sandbox, snapshot, … Repeatable."),
    ] = None,
    action: Annotated[
        list[str] | None, typer.Option("--action", help="Only this action: create, pause, … Repeatable.")
    ] = None,
    search: Annotated[
        str | None,
        typer.Option("--search", metavar="TEXT", help="Only entries that have all of these words."),
    ] = None,
    since: Annotated[
        datetime | None,
        typer.Option(
            "--since",
            formats=["%Y-%m-%d", "%Y-%m-%dT%H:%M:%S", "%Y-%m-%dT%H:%M:%S%z"],
            help="Only entries of this time and newer ones; without a zone it is local time.",
        ),
    ] = None,
    follow: Annotated[
        bool, typer.Option("--follow", "-f", help="Keep printing new entries, one on each line.")
    ] = False,
    json: JsonOption = False,
) -> None:
    """Show the team's audit log, newest entries first.

    With --follow the newest entry comes last, and new entries are printed until the command is interrupted;
    with --json, each entry is then printed on one line.
    """
    from wrenn.sdk import audit_log

    use_credentials()
    types, actions = resource_type or [], action or []
    if follow and (search or since):
        raise typer.BadParameter("--follow cannot be combined with --search or --since.")
    if follow:
        _follow(types, actions, limit, json=json)
        return
    found = audit_log(resource_types=types, actions=actions, search=search, since=since, limit=limit)
    entries = list(found)
    if json:
        print_json(entries)
        return
    rows = [
        _row(
            entry.created_at,
            {
                "actor_type": entry.actor_type,
                "actor_name": entry.actor_name,
                "action": entry.action,
                "resource_type": entry.resource_type,
                "resource_id": entry.resource_id,
                "status": entry.status,
                "metadata": entry.metadata,
            },
        )
        for entry in entries
    ]
    print_table(("TIME", "ACTOR", "ACTION", "RESOURCE", "STATUS", "DETAILS"), rows)


def _follow(types: list[str], actions: list[str], limit: int, *, json: bool) -> None:
    """Print the existing entries, then each new one."""
    import dataclasses

    from wrenn.sdk import audit_log, events

    stream = events(types=["ready", "audit"])
    shown: set[str] = set()
    try:
        next(stream)
        for entry in reversed(list(audit_log(resource_types=types, actions=actions, limit=limit))):
            shown.add(entry.id)
            _print_line(entry.created_at, dataclasses.asdict(entry), json=json)
        for event in stream:
            data = event.data
            if event.resource_id in shown or event.at is None:
                continue
            if (not types or data.get("resource_type") in types) and (
                not actions or data.get("action") in actions
            ):
                _print_line(event.at, data | {"id": event.resource_id}, json=json)
    except KeyboardInterrupt:
        pass
    finally:
        stream.close()


def _print_line(at: datetime, entry: Mapping[str, object], *, json: bool) -> None:
    if json:
        line = json_.dumps({**entry, "created_at": at.isoformat()}, ensure_ascii=False, default=str)
    else:
        line = "  ".join(filter(None, _row(at, entry)))
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def _row(at: datetime, entry: Mapping[str, object]) -> tuple[str, ...]:
    metadata = entry.get("metadata")
    facts = cast("dict[str, object]", metadata) if isinstance(metadata, dict) else {}
    return (
        at.astimezone().strftime("%Y-%m-%d %H:%M:%S"),
        _plain(entry.get("actor_name") or entry.get("actor_type")),
        _plain(entry.get("action")),
        _plain(f"{entry.get('resource_type')} {entry.get('resource_id') or ''}".strip()),
        _plain(entry.get("status")),
        " ".join(f"{_plain(name)}={_plain(value)}" for name, value in facts.items()),
    )


def _plain(value: object) -> str:
    """Replace control characters: other users choose the names, which must not control the terminal."""
    return "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in str(value or ""))
