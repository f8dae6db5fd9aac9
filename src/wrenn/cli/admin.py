"""`wrenn admin`: operations of the operator on the server, without the API."""

from __future__ import annotations

import asyncio
import sys
from typing import TYPE_CHECKING, Annotated

import typer

from wrenn.cli.env_file import EnvFileOption, load_env_file
from wrenn.cli.images import DataDirOption
from wrenn.cli.login import read_password
from wrenn.cli.rotate_ca import rotate_ca
from wrenn.cli.settings import data_dir

if TYPE_CHECKING:
    from wrenn.control.administration import AdminCreated
    from wrenn.control.teams import EndedAccess

app = typer.Typer(help="For the operator, on the server.", no_args_is_help=True, rich_markup_mode=None)

RevokeKeysOption = Annotated[
    bool | None,
    typer.Option(
        "--revoke-keys/--keep-keys",
        help="Whether to revoke the API keys that the account made and to remove its links to sign-in providers; by default if its address is not verified.",
    ),
]


@app.command("create")
def create(
    email: Annotated[str, typer.Argument(metavar="EMAIL", help="The address to log in with.")],
    *,
    name: Annotated[str, typer.Option("--name", help="Name of the person.")] = "Admin",
    revoke_keys: RevokeKeysOption = None,
    data_dir_: DataDirOption = None,
    env_file: EnvFileOption = None,
) -> None:
    """Create an admin of the platform, or make an existing user one; prompts for the password.

    An existing user gets the new password, is reactivated if deactivated, and sessions under the old password
    end. If its address is not verified, somebody else may have made the account: then its API keys and its links
    to sign-in providers are removed too. The password is read from standard input if that is not a terminal. The
    database is that of `DATABASE_URL`, otherwise that of `wrenn up` in the data folder.
    """
    load_env_file(env_file)
    from wrenn.cli.up import database
    from wrenn.control.administration import create_admin
    from wrenn.control.db.migrate import migrate

    password = read_password(twice=True)

    async def make() -> AdminCreated:
        url = await database.ensure(data_dir(data_dir_))
        await migrate(url)
        return await create_admin(url, email=email, name=name, password=password, revoke_keys=revoke_keys)

    created = asyncio.run(make())
    done = "was made" if created.is_new else "has a new password"
    sys.stderr.write(f"{email} {done} and is an admin of the platform.\n{_removed(created.ended)}")


@app.command("set-password")
def set_password(
    email: Annotated[str, typer.Argument(metavar="EMAIL", help="The address of the account.")],
    *,
    revoke_keys: RevokeKeysOption = None,
    data_dir_: DataDirOption = None,
    env_file: EnvFileOption = None,
) -> None:
    """Give a user who forgot the password a new one; asks for it. All sessions of that user end.

    If the address is not verified, somebody else may have made the account: then its API keys and its links to sign-in providers are
    removed too. `--keep-keys` keeps them, for a user whose account it certainly is; `--revoke-keys` removes them in any case, after a theft.

    For platforms without a mail server: with one, users do it themselves (`wrenn account reset-password`). The password comes from
    standard input where that is no terminal. The database is that of `DATABASE_URL`, otherwise that of `wrenn up` in the data folder.
    """
    load_env_file(env_file)
    from wrenn.cli.up import database
    from wrenn.control import administration
    from wrenn.control.db.migrate import migrate

    password = read_password(twice=True)

    async def change() -> EndedAccess:
        url = await database.ensure(data_dir(data_dir_))
        await migrate(url)
        return await administration.set_password(url, email=email, password=password, revoke_keys=revoke_keys)

    ended = asyncio.run(change())
    sys.stderr.write(
        f"{email} has a new password, and all sessions under the old one have ended.\n{_removed(ended)}"
    )


def _removed(ended: EndedAccess) -> str:
    """Return the line that says what the account lost; empty: nothing."""
    if not (ended.keys or ended.links or ended.invitations):
        return ""
    return (
        f"Removed: API keys that the account made ({ended.keys}), links to sign-in providers ({ended.links}),"
        f" invitations into its teams ({ended.invitations})."
        " Check who else belongs to its teams: `wrenn teams members`.\n"
    )


app.command("rotate-ca")(rotate_ca)


@app.command("accept-secrets")
def accept_secrets(*, data_dir_: DataDirOption = None, env_file: EnvFileOption = None) -> None:
    """Let the next replica that starts have another CA or another secret for tokens than those before it.

    For a CA or secret that is lost. Stop all replicas first. Users must then log in again. Hosts need not join again: with their
    next heartbeat they take what is new, and until then calls to them may fail. To change a CA that is not lost, use `wrenn admin rotate-ca`.
    """
    load_env_file(env_file)
    from wrenn.cli.up import database
    from wrenn.control.db import Database
    from wrenn.control.db.migrate import migrate
    from wrenn.control.hosts import ca_store

    async def forget() -> None:
        url = await database.ensure(data_dir(data_dir_))
        await migrate(url)
        opened = Database(url)
        try:
            await ca_store.forget(opened)
        finally:
            await opened.close()

    asyncio.run(forget())
    sys.stderr.write("The next replica that starts decides which CA and which secret are the platform's.\n")
