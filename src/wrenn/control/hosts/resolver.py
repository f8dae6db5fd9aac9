"""Resolves the names in addresses of hosts, and never to the control plane's own machine.

An agent of a team's own host chooses the name that it registers. `HostAddress.check_remote` refuses literal addresses; what a name
resolves to may change at any time, so it is looked at for each connection.
"""

from __future__ import annotations

import ipaddress
import socket

from aiohttp.abc import AbstractResolver, ResolveResult
from aiohttp.resolver import ThreadedResolver


class RemoteResolver(AbstractResolver):
    """Leaves out loopback, link-local and unspecified addresses. A host that is at one of these registers the address itself."""

    def __init__(self) -> None:
        self._resolver = ThreadedResolver()

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[ResolveResult]:
        """Resolve a name.

        Raises:
            OSError: it cannot be resolved, or to no address of another machine.
        """
        found = await self._resolver.resolve(host, port, family)
        if remote := [each for each in found if not _is_own(each["host"])]:
            return remote
        raise OSError(None, "The name of the host resolves to no address of another machine.")

    async def close(self) -> None:
        """Release what the resolver has."""
        await self._resolver.close()


def _is_own(address: str) -> bool:
    ip = ipaddress.ip_address(address.partition("%")[0])
    mapped = ip.ipv4_mapped if isinstance(ip, ipaddress.IPv6Address) else None
    return any(
        each.is_loopback or each.is_link_local or each.is_unspecified
        for each in (ip, mapped)
        if each is not None
    )
