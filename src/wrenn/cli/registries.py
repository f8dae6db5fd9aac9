"""`wrenn registries`: credentials of container registries."""

from __future__ import annotations

from contextlib import closing
from typing import TYPE_CHECKING, Annotated
from urllib.parse import quote

import typer

from wrenn.cli.login import read_password
from wrenn.cli.output import JsonOption, age, print_json, print_table
from wrenn.cli.settings import use_credentials

if TYPE_CHECKING:
    from wrenn.sdk._sync.api import Api

app = typer.Typer(
    help="Credentials of registries, from which container images are pulled.",
    no_args_is_help=True,
    rich_markup_mode=None,
)

_PATH = "/v1/registry-credentials"
RegistryArgument = Annotated[
    str,
    typer.Argument(
        metavar="REGISTRY",
        help="HOST or HOST:PORT, as in references to its images; docker.io for Docker Hub.",
    ),
]


def _api() -> Api:
    from wrenn.sdk._sync.api import Api
    from wrenn.sdk.settings import client_settings

    use_credentials()
    return Api(client_settings())


@app.command("list")
def list_(*, json: JsonOption = False) -> None:
    """List the registries that the team has credentials of. Passwords are never shown."""
    from wrenn.sdk._parse import json_of, objects

    with closing(_api()) as api:
        found = json_of(api.call("GET", _PATH, repeatable=True))
    if json:
        print_json(found)
        return
    rows = [
        (
            login.text("registry"),
            login.text("username"),
            login.optional_text("set_by") or "-",
            age(login.time("set_at")),
        )
        for login in objects("registry credentials", found)
    ]
    print_table(("REGISTRY", "USER", "BY", "AGE"), rows)


@app.command("login")
def login(
    registry: RegistryArgument,
    *,
    username: Annotated[str, typer.Option("--username", "-u", help="User name of the registry.")],
) -> None:
    """Store the team's credentials of a registry; prompts for the password or token.

    The password is read from standard input if that is not a terminal. It is stored encrypted, and used when images of this registry
    are imported or built upon. Former credentials of the registry are replaced.
    """
    password = read_password()
    with closing(_api()) as api:
        body = {"registry": registry, "username": username, "password": password.reveal()}
        api.call("POST", _PATH, json=body, repeatable=True)


@app.command("logout")
def logout(registry: RegistryArgument) -> None:
    """Remove the team's credentials of a registry."""
    with closing(_api()) as api:
        api.call("DELETE", f"{_PATH}/{quote(registry, safe='')}", repeatable=True)
