"""`wrenn keys`: API keys of the team."""

from __future__ import annotations

import sys
from datetime import UTC, datetime, timedelta
from typing import Annotated, Literal

import typer

from wrenn.cli.each import do_each
from wrenn.cli.output import JsonOption, age, print_json, print_table, until

app = typer.Typer(help="API keys of your team.", no_args_is_help=True, rich_markup_mode=None)


@app.command("list")
def list_(*, json: JsonOption = False) -> None:
    """List the team's keys."""
    from wrenn.cli import credentials
    from wrenn.sdk._parse import objects

    with credentials.account() as account:
        found = account.call("GET", "/v1/api-keys")
    if json:
        print_json(found)
        return
    rows = [
        (
            key.text("id"),
            key.text("name"),
            f"{key.text('key_prefix')}…",
            key.text("scope"),
            key.text("creator_email"),
            age(key.time("created_at")),
            age(last) if (last := key.optional_time("last_used")) else "never",
            until(end) if (end := key.optional_time("expires_at")) else "never",
        )
        for key in objects("key", found)
    ]
    print_table(("ID", "NAME", "KEY", "SCOPE", "BY", "AGE", "LAST USED", "EXPIRES"), rows)


@app.command("create")
def create(
    name: Annotated[str, typer.Argument(metavar="NAME", help="Purpose of the key.")],
    *,
    scope: Annotated[
        Literal["full", "sandboxes", "read"],
        typer.Option("--scope", help="Everything, only sandboxes and snapshots, or read-only."),
    ] = "full",
    days: Annotated[
        int | None, typer.Option("--days", min=1, max=3650, help="Days until it expires. [default: never]")
    ] = None,
    e2b: Annotated[
        bool,
        typer.Option("--e2b", help="Make it in the form that clients of e2b expect, for E2B_API_KEY."),
    ] = False,
    json: JsonOption = False,
) -> None:
    """Create a key and print it; it cannot be shown again."""
    from wrenn.cli import credentials
    from wrenn.sdk._parse import Fields

    body: dict[str, object] = {"name": name, "scope": scope}
    if e2b:
        body["format"] = "e2b"
    if days is not None:
        body["expires_at"] = (datetime.now(UTC) + timedelta(days=days)).isoformat()
    with credentials.account() as account:
        made = account.call("POST", "/v1/api-keys", body)
    if json:
        print_json(made)
    else:
        sys.stdout.write(Fields("key", made).text("key") + "\n")


@app.command("revoke")
def revoke(
    ids: Annotated[list[str], typer.Argument(metavar="ID...", help="Keys to revoke.")],
    *,
    json: JsonOption = False,
) -> None:
    """Revoke keys, which stop working immediately.

    Continues after a failure; the exit code is that of the last failure.
    """
    from urllib.parse import quote

    from wrenn.cli import credentials

    with credentials.account() as account:
        do_each(
            ids,
            lambda key_id: account.call("DELETE", f"/v1/api-keys/{quote(key_id, safe='')}"),
            done="revoked",
            json=json,
        )
