"""`wrenn login`, `wrenn logout`, `wrenn whoami`."""

from __future__ import annotations

import getpass
import os
import platform
import sys
from typing import TYPE_CHECKING, Annotated

import typer

from wrenn.cli.output import JsonOption, print_json

if TYPE_CHECKING:
    from wrenn.base.secrets import Secret

ProfileOption = Annotated[
    str | None,
    typer.Option(
        "--profile", metavar="NAME", help="Name of the profile. [default: WRENN_PROFILE or 'default']"
    ),
]


def read_password(*, twice: bool = False) -> Secret:
    """Read the password from the terminal without echo, or from the first line of standard input if that is not a terminal."""
    from wrenn.base.errors import InvalidRequest
    from wrenn.base.secrets import Secret

    if not sys.stdin.isatty():
        return Secret(sys.stdin.readline().rstrip("\r\n"))
    password = getpass.getpass("Password: ")
    if twice and getpass.getpass("Again: ") != password:
        raise InvalidRequest("The passwords differ.")
    return Secret(password)


def login(
    *,
    url: Annotated[
        str | None,
        typer.Option("--url", help="The platform. [default: WRENN_BASE_URL, the profile's, or this machine]"),
    ] = None,
    email: Annotated[str | None, typer.Option("--email", help="Prompted for if missing.")] = None,
    profile: ProfileOption = None,
) -> None:
    """Log in with e-mail address and password; prompts for them.

    Creates an API key for this machine and stores it with the session in
    `$XDG_CONFIG_HOME/wrenn/credentials.toml`, which only you can read. The SDK finds it there. The password
    is read from standard input if that is not a terminal. If you forgot it: `wrenn account reset-password`.
    A profile of another platform is replaced only with `--url`.
    """
    from wrenn.base.errors import InvalidRequest
    from wrenn.base.secrets import Secret
    from wrenn.cli import credentials
    from wrenn.cli.settings import platform_url
    from wrenn.sdk._parse import Fields
    from wrenn.sdk.account import Account
    from wrenn.sdk.profiles import Profile
    from wrenn.sdk.settings import load_profile, profile_name

    name = profile_name(profile)
    known = load_profile(name)
    base_url = platform_url(url, known)
    if known is not None and known.base_url != base_url and url is None:
        raise InvalidRequest(
            f"Profile {name} is of {known.base_url}, not of {base_url}: choose another one with --profile,"
            f" or replace it with --url {base_url}."
        )
    if email is None or sys.stdin.isatty():
        sys.stderr.write(f"Log in to {base_url}\n")
    address = email or typer.prompt("E-mail", err=True)
    account = Account.log_in(base_url, address, read_password())
    try:
        with credentials.locked():
            former = load_profile(name)
            made = Fields("key", account.call("POST", "/v1/api-keys", {"name": _key_name()}))
            new_profile = Profile(
                base_url, account.email, Secret(made.text("key")), made.text("id"), account.refresh_token
            )
            credentials.save(name, new_profile)
        if former is not None and former.base_url == base_url:
            _forget(former)
    finally:
        account.close()
    sys.stderr.write(f"Logged in to {base_url} as {account.email} (profile {name}).\n")


def _key_name() -> str:
    return f"wrenn login on {platform.node()}"[:100]


def logout(*, profile: ProfileOption = None) -> None:
    """Log out: end the session, revoke this machine's API key, and delete both from the profile."""
    from wrenn.cli import credentials
    from wrenn.sdk.settings import load_profile, profile_name

    name = profile_name(profile)
    with credentials.locked():
        known = load_profile(name)
        if known is None:
            sys.stderr.write(f"Nobody is logged in (profile {name}).\n")
            return
        was_revoked = _forget(known)
        credentials.save(name, None)
    if not was_revoked:
        sys.stderr.write(f"wrenn: The API key {known.key_id} could not be revoked and may still be valid.\n")
    sys.stderr.write(f"Logged out of {known.base_url} (profile {name}).\n")


def _forget(profile: object) -> bool:
    """Revoke a profile's key and end its session; return whether the platform did."""
    from wrenn.sdk.account import Account
    from wrenn.sdk.errors import WrennError
    from wrenn.sdk.profiles import Profile

    assert isinstance(profile, Profile), "loaded just now"
    try:
        account = Account.resume(profile.base_url, profile.refresh_token)
        try:
            account.call("DELETE", f"/v1/api-keys/{profile.key_id}")
            account.call("POST", "/v1/auth/logout", {})
        finally:
            account.close()
    except WrennError:
        return False
    return True


def whoami(*, json: JsonOption = False) -> None:
    """Print the current user and team; with an API key alone, the key and platform in use."""
    from wrenn.cli import credentials
    from wrenn.cli.settings import use_credentials
    from wrenn.sdk.settings import load_profile

    if load_profile() is None:
        use_credentials()
        _print_key(json=json)
        return
    if os.environ.get("WRENN_API_KEY"):
        sys.stderr.write("wrenn: WRENN_API_KEY is set: commands on sandboxes use that key.\n")
    from wrenn.sdk._parse import Fields, objects

    with credentials.account() as account:
        me = Fields("account", account.call("GET", "/v1/me"))
        teams = objects("team", account.call("GET", "/v1/teams"))
        team = next((team for team in teams if team.text("id") == account.team_id), None)
        said = {
            "email": me.text("email"),
            "name": me.text("name"),
            "user_id": account.user_id,
            "team_id": account.team_id,
            "team": team.text("name") if team else "",
            "role": team.text("role") if team else "",
        }
    if json:
        print_json(said)
    else:
        sys.stdout.write(f"{said['email']} ({said['name']}), {said['role']} of {said['team']}\n")


def _print_key(*, json: bool) -> None:
    """Print the key in use, once the platform has accepted it."""
    from wrenn.sdk import Sandbox
    from wrenn.sdk.settings import client_settings

    settings = client_settings()
    assert settings.api_key is not None, "client_settings refuses to go without"
    Sandbox.list()
    key = f"{settings.api_key.reveal()[:8]}…"
    if json:
        print_json({"api_key": key, "base_url": settings.base_url})
    else:
        sys.stdout.write(f"API key {key} of {settings.base_url}; nobody is logged in here.\n")
