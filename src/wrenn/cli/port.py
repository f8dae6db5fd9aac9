"""`wrenn port` and `wrenn link`: access to ports of sandboxes, locally and in a browser."""

from __future__ import annotations

import asyncio
import errno
import socket
import sys
import threading
from collections.abc import Callable
from contextlib import AsyncExitStack, closing, suppress
from typing import TYPE_CHECKING, Annotated, Final

import typer

from wrenn.cli.exits import print_error
from wrenn.cli.lifecycle import IdArgument
from wrenn.cli.output import JsonOption, print_json
from wrenn.cli.settings import use_credentials

if TYPE_CHECKING:
    from wrenn.sdk.settings import ClientSettings

_RESOLVE_TIMEOUT_S: Final = 2.0

PortArgument = Annotated[int, typer.Argument(metavar="PORT", min=1, max=65535, help="Port in the sandbox.")]


def port(
    sandbox_id: IdArgument,
    port: PortArgument,
    local: Annotated[
        int | None,
        typer.Argument(
            metavar="[LOCAL]",
            min=0,
            max=65535,
            help="Local port; by default the same number, 0: any free one.",
        ),
    ] = None,
    *,
    address: Annotated[
        str,
        typer.Option(
            metavar="ADDRESS",
            help="Local address to listen on. Everybody who can reach it can reach the port.",
        ),
    ] = "127.0.0.1",
    json: JsonOption = False,
) -> None:
    """Forward a local TCP port to a port of a sandbox, until Ctrl-C.

    Works with any protocol, and also reaches programs that listen only on the sandbox's 127.0.0.1.
    """
    from wrenn.sdk import Sandbox
    from wrenn.sdk.settings import client_settings

    use_credentials()
    with closing(Sandbox.connect(sandbox_id, resume=False)):
        pass  # so that a wrong id or key is reported now, not at the first connection
    here = port if local is None else local
    with suppress(KeyboardInterrupt):  # the usual way to exit
        asyncio.run(_forward(client_settings(), sandbox_id, port, here, address, json=json))


async def _forward(
    settings: ClientSettings, sandbox_id: str, port: int, local: int, address: str, *, json: bool
) -> None:
    from wrenn.sdk.port_forward import forwarded_port

    async with AsyncExitStack() as stack:
        try:
            bound = await stack.enter_async_context(
                forwarded_port(
                    settings, sandbox_id, port, local_address=address, local_port=local, on_error=print_error
                )
            )
        except OSError as error:
            if error.errno != errno.EADDRINUSE:
                raise
            raise typer.BadParameter(
                f"port {local} of this machine is in use: give another one as LOCAL, or 0 for any."
            ) from error
        if json:
            print_json({"address": address, "port": bound, "sandbox_id": sandbox_id, "sandbox_port": port})
        else:
            sys.stdout.write(f"{address}:{bound} is port {port} of {sandbox_id}; Ctrl-C ends it\n")
        sys.stdout.flush()
        await asyncio.Event().wait()


def link(
    sandbox_id: IdArgument,
    port: PortArgument,
    *,
    expires: Annotated[
        int, typer.Option(metavar="SECONDS", min=1, help="How long the link is valid.")
    ] = 3600,
    json: JsonOption = False,
) -> None:
    """Print a URL that opens a port of a sandbox in a browser, without a key, until it expires."""
    from wrenn.sdk import Sandbox

    use_credentials()
    with closing(Sandbox.connect(sandbox_id, resume=False)) as sandbox:
        url = sandbox.get_url(port, expires_in_sec=expires)
    if json:
        print_json({"url": url, "expires_in_sec": expires})
    else:
        sys.stdout.write(f"{url}\n")
    hint_unresolved(url)


def _resolves(host: str) -> bool:
    """Whether this machine resolves the name. Does not wait for a name server that does not respond."""
    found: list[object] = []

    def look() -> None:
        with suppress(OSError):
            found.extend(socket.getaddrinfo(host, None))

    looking = threading.Thread(target=look, daemon=True)
    looking.start()
    looking.join(_RESOLVE_TIMEOUT_S)
    return bool(found)


def hint_unresolved(url: str, resolves: Callable[[str], bool] = _resolves) -> None:
    """Print a hint if this machine does not resolve names below `localhost`; browsers and curl always do."""
    from urllib.parse import urlsplit

    host = urlsplit(url).hostname or ""
    if host.endswith(".localhost") and not resolves(host):
        sys.stderr.write(
            f"wrenn: This machine does not resolve {host}. Browsers and curl reach it all the same; for other programs add\n"
            f"wrenn: '127.0.0.1 {host}' to /etc/hosts, or use `wrenn port`.\n"
        )
