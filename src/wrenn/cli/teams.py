"""`wrenn teams`: teams and their members."""

from __future__ import annotations

import sys
from collections.abc import Generator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from wrenn.cli.output import JsonOption, age, print_json, print_table

if TYPE_CHECKING:
    from wrenn.sdk.account import Account

app = typer.Typer(help="Your teams and their members.", no_args_is_help=True, rich_markup_mode=None)

TeamOption = Annotated[
    str | None, typer.Option("--team", metavar="ID", help="The team. [default: the current team]")
]
EmailArgument = Annotated[str, typer.Argument(metavar="EMAIL", help="The user's address.")]


@contextmanager
def _in_team(team_id: str | None) -> Generator[tuple[Account, str]]:
    """Yield the session, switched to this team, and the team's API path; afterwards the session is switched back."""
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
    """List your teams; a star marks the current one."""
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
    """Create a team with you as its owner, and print its id."""
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
    """Switch to another team.

    The API key of this machine still belongs to the team in which you logged in: run `wrenn login` again to
    change that.
    """
    from wrenn.cli import credentials

    with credentials.account() as account:
        account.switch(team_id)


@app.command("members")
def members(*, team: TeamOption = None, json: JsonOption = False) -> None:
    """List the members of the team."""
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


@app.command("invite")
def invite(email: EmailArgument, *, team: TeamOption = None, json: JsonOption = False) -> None:
    """Invite somebody, and print the link that accepts the invitation.

    If the platform sends mail, the person also gets the link by mail. Otherwise give it to the person with
    this address: it works once, for a week, and only for that address. Inviting again creates a new link and
    invalidates the former one.
    """
    from wrenn.sdk._parse import Fields

    with _in_team(team) as (account, path):
        made = account.call("POST", f"{path}/members", {"email": email})
    if json:
        print_json(made)
    else:
        sys.stdout.write(Fields("invitation", made).text("link") + "\n")


@app.command("invitations")
def invitations(
    *,
    team: TeamOption = None,
    revoke: Annotated[
        str | None, typer.Option("--revoke", metavar="ID", help="Revoke this invitation.")
    ] = None,
    json: JsonOption = False,
) -> None:
    """List pending invitations, or revoke one."""
    from wrenn.sdk._parse import objects

    with _in_team(team) as (account, path):
        if revoke is not None:
            account.call("DELETE", f"{path}/invitations/{revoke}")
            return
        found = account.call("GET", f"{path}/invitations")
    if json:
        print_json(found)
        return
    rows = [
        (
            each.text("id"),
            each.text("email"),
            each.text("inviter_email"),
            age(each.time("created_at")),
            each.text("expires_at"),
        )
        for each in objects("invitation", found)
    ]
    print_table(("ID", "EMAIL", "BY", "AGE", "EXPIRES"), rows)


@app.command("accept")
def accept(
    link: Annotated[str, typer.Argument(metavar="LINK", help="The link of the invitation, or its token.")],
) -> None:
    """Accept an invitation into a team, and print the team's id."""
    from wrenn.cli import credentials
    from wrenn.sdk._parse import Fields

    token = link.rpartition("#")[2].strip()
    with credentials.account() as account:
        team = account.call("POST", "/v1/invitations/accept", {"token": token})
    sys.stdout.write(Fields("team", team).text("id") + "\n")


@app.command("remove")
def remove(
    email: EmailArgument,
    *,
    team: TeamOption = None,
    revoke_keys: Annotated[
        bool | None,
        typer.Option(
            "--revoke-keys/--keep-keys",
            help="What happens to the team's API keys that this user created. [default: the team's setting]",
            show_default=False,
        ),
    ] = None,
) -> None:
    """Remove a member, whose access ends immediately."""
    params = None if revoke_keys is None else {"revoke_keys": "true" if revoke_keys else "false"}
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
    """Change the role of a member."""
    with _in_team(team) as (account, path):
        user_id = _user_id(account, path, email)
        if role_ == "owner":
            account.call("POST", f"{path}/transfer", {"user_id": user_id})
        else:
            account.call("PATCH", f"{path}/members/{user_id}", {"role": role_})


@app.command("keys-of-removed")
def keys_of_removed(
    choice: Annotated[
        Literal["revoke", "keep"],
        typer.Argument(metavar="CHOICE", help="revoke or keep."),
    ],
    *,
    team: TeamOption = None,
) -> None:
    """Choose what happens to a member's API keys when the member is removed or leaves."""
    with _in_team(team) as (account, path):
        account.call("PATCH", path, {"keys_of_removed": choice})


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
