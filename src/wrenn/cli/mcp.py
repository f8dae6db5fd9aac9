"""`wrenn mcp`: sandboxes as tools for programs that speak the Model Context Protocol."""

from __future__ import annotations

import asyncio
import re
import secrets
import sys
from typing import Annotated, Final

import typer

from wrenn.cli.exits import Exit
from wrenn.cli.settings import use_credentials

_SESSION_NAME: Final = re.compile(r"[A-Za-z0-9._-]{1,64}")


def mcp(
    *,
    http: Annotated[
        str | None,
        typer.Option(
            "--http",
            metavar="HOST:PORT",
            help="Serve at http://HOST:PORT/mcp instead of on standard input and output.",
        ),
    ] = None,
    allow_host: Annotated[
        list[str] | None,
        typer.Option(
            "--allow-host",
            metavar="NAME",
            help="A host name under which clients may call, with --http. Can be repeated.",
        ),
    ] = None,
    session: Annotated[
        str | None,
        typer.Option(
            "--session",
            metavar="NAME",
            help="Continue with the sandboxes of an earlier session of this name. [default: a new session]",
        ),
    ] = None,
    no_internet: Annotated[
        bool, typer.Option("--no-internet", help="Refuse sandboxes that can reach the internet.")
    ] = False,
    max_sandboxes: Annotated[int, typer.Option(min=1, max=100, help="Sandboxes of a session at a time.")] = 5,
    idle: Annotated[
        int, typer.Option(metavar="SECONDS", min=30, help="An unused sandbox is paused after this time.")
    ] = 900,
    max_time: Annotated[
        int, typer.Option(metavar="SECONDS", min=1, max=3600, help="Longest time for a command.")
    ] = 300,
    max_output: Annotated[
        int,
        typer.Option(
            metavar="BYTES", min=1024, max=1 << 20, help="Bytes of each output, or of a file, in one answer."
        ),
    ] = 65536,
) -> None:
    """Offer sandboxes as tools of the Model Context Protocol.

    A client starts this command and speaks to it on standard input and output. With --http any number of clients can use it, each with
    its own API key as bearer token; all clients with one key share a session. A session sees only sandboxes that it created.
    """
    if session is not None and not _SESSION_NAME.fullmatch(session):
        raise typer.BadParameter("1 to 64 letters, digits, '.', '_' and '-'", param_hint="--session")
    if http is not None and session is not None:
        raise typer.BadParameter("not with --http: there each API key is a session", param_hint="--session")
    if http is None and allow_host:
        raise typer.BadParameter("only with --http", param_hint="--allow-host")
    address = _address(http) if http is not None else None
    try:
        from wrenn.mcp import Limits, serve_http, serve_stdio
    except ModuleNotFoundError as error:
        if error.name not in ("mcp", "mcp_types"):
            raise
        sys.stderr.write("wrenn: `wrenn mcp` needs the package mcp: pip install 'wrenn[mcp]'\n")
        raise typer.Exit(Exit.ERROR) from None
    limits = Limits(
        sandboxes=max_sandboxes, idle_s=idle, call_s=max_time, output_b=max_output, internet=not no_internet
    )
    if address is None:
        use_credentials()
        asyncio.run(serve_stdio(limits, session or secrets.token_hex(16)))
        return
    asyncio.run(serve_http(*address, limits, allowed_hosts=tuple(allow_host or ())))


def _address(text: str) -> tuple[str, int]:
    host, separator, port = text.rpartition(":")
    if not separator or not host or not port.isdigit() or not 1 <= int(port) <= 65535:
        raise typer.BadParameter("an address and a port, for example 127.0.0.1:8765", param_hint="--http")
    return host.removeprefix("[").removesuffix("]"), int(port)
