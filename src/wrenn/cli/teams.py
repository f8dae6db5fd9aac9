"""`wrenn teams`: teams and who belongs to them."""

from __future__ import annotations

import sys
from collections.abc import Generator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from wrenn.cli.output import JsonOption, age, print_json, print_table

if TYPE_CHECKING:
    from wrenn.sdk.account import Account

app = typer.Typer(help="Your teams and who belongs to them.", no_args_is_help=True, rich_markup_mode=None)

TeamOption = Annotated[
    str | None, typer.Option("--team", metavar="ID", help="The team. [default: that of the session]")
]
EmailArgument = Annotated[str, typer.Argument(metavar="EMAIL", help="The user's address.")]


@contextmanager
def _in_team(team_id: str | None) -> Generator[tuple[Account, str]]:
    """The session in this team, and the path of the team; afterwards the session is where it was."""
    from wrenn.cli import credentials

    with credentials.account() as account:
        before = account.team_id
        moved = team_id is not None and team_id != before
        if team_id is not None and moved:
            account.switch(team_id)
        try:
            yield account, f"/v1/teams/{account.team_id}"
        finally:
            if moved:
                account.switch(before)


def _user_id(account: Account, path: str, email: str) -> str:
    from wrenn.sdk._parse import objects
    from wrenn.sdk.errors import NotFoundError

    for member in objects("member", account.call("GET", f"{path}/members")):
        if member.text("email") == email.strip().lower():
            return member.text("user_id")
    raise NotFoundError(f"The team has no member {email}.", status=404)


@app.command("list")
def list_(*, json: JsonOption = False) -> None:
    """List your teams; a star marks the one that the session is in."""
    from wrenn.cli import credentials
    from wrenn.sdk._parse import objects

    with credentials.account() as account:
        found = account.call("GET", "/v1/teams")
        here = account.team_id
    if json:
        print_json(found)
        return
    rows = [
        (
            team.text("id"),
            f"{team.text('name')}{' *' if team.text('id') == here else ''}",
            team.text("role"),
            team.text("slug"),
            age(team.time("created_at")),
        )
        for team in objects("team", found)
    ]
    print_table(("ID", "NAME", "ROLE", "SLUG", "AGE"), rows)


@app.command("create")
def create(
    name: Annotated[str, typer.Argument(metavar="NAME", help="Letters, digits, spaces or any of _ - @ '.")],
    *,
    json: JsonOption = False,
) -> None:
    """Make a team, as its owner, and print its id."""
    from wrenn.cli import credentials
    from wrenn.sdk._parse import Fields

    with credentials.account() as account:
        made = account.call("POST", "/v1/teams", {"name": name})
    if json:
        print_json(made)
    else:
        sys.stdout.write(Fields("team", made).text("id") + "\n")


@app.command("use")
def use(team_id: Annotated[str, typer.Argument(metavar="ID", help="One of your teams.")]) -> None:
    """Be in another team from now on.

    The API key of this machine stays that of the team in which you logged in: `wrenn login` again to change it.
    """
    from wrenn.cli import credentials

    with credentials.account() as account:
        account.switch(team_id)


@app.command("members")
def members(*, team: TeamOption = None, json: JsonOption = False) -> None:
    """List who belongs to the team."""
    from wrenn.sdk._parse import objects

    with _in_team(team) as (account, path):
        found = account.call("GET", f"{path}/members")
    if json:
        print_json(found)
        return
    rows = [
        (member.text("email"), member.text("name"), member.text("role"), age(member.time("joined_at")))
        for member in objects("member", found)
    ]
    print_table(("EMAIL", "NAME", "ROLE", "SINCE"), rows)


@app.command("add")
def add(email: EmailArgument, *, team: TeamOption = None) -> None:
    """Add a user who has an account, as a member."""
    with _in_team(team) as (account, path):
        account.call("POST", f"{path}/members", {"email": email})


@app.command("remove")
def remove(
    email: EmailArgument,
    *,
    team: TeamOption = None,
    revoke_keys: Annotated[
        bool, typer.Option("--revoke-keys", help="Also revoke the keys of the team that this user made.")
    ] = False,
) -> None:
    """Remove a member, who is out at once."""
    params = {"revoke_keys": "true"} if revoke_keys else None
    with _in_team(team) as (account, path):
        account.call("DELETE", f"{path}/members/{_user_id(account, path, email)}", params=params)


@app.command("role")
def role(
    email: EmailArgument,
    role_: Annotated[
        Literal["member", "admin", "owner"],
        typer.Argument(metavar="ROLE", help="member, admin, or owner: that hands the team over."),
    ],
    *,
    team: TeamOption = None,
) -> None:
    """Change what a member is in the team."""
    with _in_team(team) as (account, path):
        user_id = _user_id(account, path, email)
        if role_ == "owner":
            account.call("POST", f"{path}/transfer", {"user_id": user_id})
        else:
            account.call("PATCH", f"{path}/members/{user_id}", {"role": role_})


@app.command("leave")
def leave(team_id: Annotated[str, typer.Argument(metavar="ID", help="The team to leave.")]) -> None:
    """Leave a team."""
    from wrenn.cli import credentials

    with credentials.account() as account:
        before = account.team_id
        if before != team_id:
            account.switch(team_id)
        account.call("POST", f"/v1/teams/{account.team_id}/leave", {})
        if before != team_id:
            account.switch(before)
