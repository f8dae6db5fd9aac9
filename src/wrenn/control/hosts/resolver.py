"""Resolves the names in addresses of hosts, and never to the control plane's own machine.

An agent of a team's own host chooses the name that it registers. `HostAddress.check_remote` refuses literal addresses; what a name
resolves to may change at any time, so it is looked at for each connection.
"""

from __future__ import annotations

import asyncio
import socket
from concurrent.futures import ThreadPoolExecutor
from typing import Final

from aiohttp.abc import AbstractResolver, ResolveResult

from wrenn.control.hosts.addresses import is_own_machine

_AT_ONCE: Final = 8
"""Names that are looked up at once. A name server that a team chose may never answer: other work has threads of its own."""


class RemoteResolver(AbstractResolver):
    """Leaves out loopback, link-local and unspecified addresses. A host that is at one of these registers the address itself."""

    def __init__(self) -> None:
        self._threads = ThreadPoolExecutor(_AT_ONCE, "resolve hosts")

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[ResolveResult]:
        """Resolve a name.

        Raises:
            OSError: it cannot be resolved, or to no address of another machine.
        """
        loop = asyncio.get_running_loop()
        found = await loop.run_in_executor(self._threads, _addresses, host, port, family)
        if remote := [each for each in found if not is_own_machine(each["host"].partition("%")[0])]:
            return remote
        raise OSError(None, "The name of the host resolves to no address of another machine.")

    async def close(self) -> None:
        """Wait for no look-up any more."""
        self._threads.shutdown(wait=False, cancel_futures=True)


def _addresses(host: str, port: int, family: socket.AddressFamily) -> list[ResolveResult]:
    found = socket.getaddrinfo(host, port, family, socket.SOCK_STREAM, flags=socket.AI_ADDRCONFIG)
    return [
        ResolveResult(
            hostname=host,
            host=str(address[0]),
            port=port,
            family=kind,
            proto=protocol,
            flags=socket.AI_NUMERICHOST | socket.AI_NUMERICSERV,
        )
        for kind, _, protocol, _, address in found
    ]
