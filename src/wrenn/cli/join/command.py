"""`wrenn agent` and `wrenn agent join`."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path
from typing import Annotated

import typer

from wrenn.cli.env_file import EnvFileOption, load_env_file
from wrenn.cli.images import DataDirOption
from wrenn.cli.output import JsonOption, print_json
from wrenn.cli.settings import data_dir

app = typer.Typer(rich_markup_mode=None, invoke_without_command=True)


@app.callback()
def agent(context: typer.Context, env_file: EnvFileOption = None) -> None:
    """Run the host agent in the foreground; needs root.

    Its settings come from the environment. The host must be registered: see `wrenn agent join`.
    """
    load_env_file(env_file)
    if context.invoked_subcommand is None:
        from wrenn.agent.main import main

        main()


@app.command("join")
def join(
    url: Annotated[str, typer.Argument(metavar="URL", help="Base URL of the control plane's API.")],
    *,
    token: Annotated[
        str,
        typer.Option(
            "--token",
            metavar="TOKEN",
            envvar="WRENN_REGISTRATION_TOKEN",
            help="One-time token of `wrenn hosts create` or `wrenn hosts token`; `-` reads it from standard input.",
        ),
    ],
    address: Annotated[
        str | None,
        typer.Option(
            "--address",
            metavar="HOST:PORT",
            help="How the control plane reaches this host. [default: the address from which this machine reaches URL]",
        ),
    ] = None,
    listen: Annotated[
        str | None,
        typer.Option(
            "--listen", metavar="HOST:PORT", help="Where the agent listens. [default: that of --address]"
        ),
    ] = None,
    ca_file: Annotated[
        Path | None,
        typer.Option(
            "--ca-file",
            metavar="FILE",
            help="CA certificates that URL is checked with. [default: the system's]",
        ),
    ] = None,
    data_dir_: DataDirOption = None,
    json: JsonOption = False,
) -> None:
    """Make this machine a host of a control plane; needs root.

    Installs missing Debian packages, builds the guest images, registers the host, and starts the agent: as a
    systemd service where systemd runs, otherwise as a background process. The private key of the host never
    leaves it. Run it again with a new token to register the same host again; it keeps its sandboxes.

    URL must begin with https://, unless it is on this machine: the answer has secrets.
    """
    from wrenn.cli.join.join import Joining
    from wrenn.cli.up.progress import Progress

    secret = sys.stdin.readline().strip() if token == "-" else token  # noqa: S105 - no password
    joining = Joining(data_dir(data_dir_), url, address=address, listen=listen, ca_file=ca_file)
    joined = asyncio.run(joining.run(secret, Progress()))
    if json:
        print_json(joined)
    else:
        sys.stdout.write(
            f"{joined.host_id} is online at {joined.address}.\n"
            f"The agent runs as {joined.runs_as}; its log: {joined.log}\n"
        )
