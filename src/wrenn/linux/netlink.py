"""Links, addresses, neighbours and routes: requests as values, which `send_all` sends in order.

pyroute2 forks this process to enter a namespace, and its asyncio transport does not work on uvloop. So the
requests are sent from a thread inside the namespace, on a small event loop of that thread.
"""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from ipaddress import IPv4Network
from typing import Any, Final, Protocol

from pyroute2 import AsyncIPRoute
from pyroute2.netlink.exceptions import NetlinkError

from wrenn.linux.namespaces import KernelError, in_namespace, namespace_path

_SCOPE_LINK: Final = 253
_MAIN_TABLE: Final = 254
_UNICAST: Final = 1
_SHORTEST_ON_LINK: Final = 2


class Request(Protocol):
    """One change; `send` raises OSError or NetlinkError if the kernel refuses it."""

    async def send(self, route: Any) -> None:
        """Send the request through the pyroute2 socket `route`, from within the namespace."""
        ...


@dataclass(frozen=True, slots=True)
class AddVeth:
    """Create a veth pair: `name` here, `peer` in the namespace `peer_namespace`."""

    name: str
    mac: str
    peer: str
    peer_mac: str
    peer_namespace: str

    async def send(self, route: Any) -> None:
        """Send the request; raises OSError or NetlinkError."""
        descriptor = os.open(namespace_path(self.peer_namespace), os.O_RDONLY | os.O_CLOEXEC)
        try:
            peer = {"ifname": self.peer, "address": self.peer_mac, "net_ns_fd": descriptor}
            await route.link("add", kind="veth", ifname=self.name, address=self.mac, peer=peer)
        finally:
            os.close(descriptor)


@dataclass(frozen=True, slots=True)
class BringUp:
    """Set a link up, and set its MAC address if `mac` is given."""

    link: str
    mac: str | None = None

    async def send(self, route: Any) -> None:
        """Send the request; raises OSError or NetlinkError."""
        address = {} if self.mac is None else {"address": self.mac}
        await route.link("set", index=socket.if_nametoindex(self.link), state="up", **address)


@dataclass(frozen=True, slots=True)
class AddAddress:
    """Add an IPv4 address to a link; it is used as a source address on that link only."""

    link: str
    address: str
    prefix_length: int

    async def send(self, route: Any) -> None:
        """Send the request; raises OSError or NetlinkError."""
        await route.addr(
            "add",
            index=socket.if_nametoindex(self.link),
            address=self.address,
            prefixlen=self.prefix_length,
            scope=_SCOPE_LINK,
        )


@dataclass(frozen=True, slots=True)
class AddNeighbour:
    """Add a permanent neighbour entry for an IPv4 address, so that no ARP is needed."""

    link: str
    address: str
    mac: str

    async def send(self, route: Any) -> None:
        """Send the request; raises OSError or NetlinkError."""
        index = socket.if_nametoindex(self.link)
        await route.neigh("add", ifindex=index, dst=self.address, lladdr=self.mac, state="permanent")


@dataclass(frozen=True, slots=True)
class AddHostRoute:
    """Add a route to one IPv4 address over a link, with the source address `source`."""

    link: str
    address: str
    source: str

    async def send(self, route: Any) -> None:
        """Send the request; raises OSError or NetlinkError."""
        index = socket.if_nametoindex(self.link)
        await route.route("add", dst=f"{self.address}/32", oif=index, scope=_SCOPE_LINK, prefsrc=self.source)


@dataclass(frozen=True, slots=True)
class AddDefaultRoute:
    """Add a default route over a link to `gateway`, which need not be in a directly connected network."""

    link: str
    gateway: str
    source: str

    async def send(self, route: Any) -> None:
        """Send the request; raises OSError or NetlinkError."""
        index = socket.if_nametoindex(self.link)
        await route.route(
            "add", dst="0.0.0.0/0", oif=index, gateway=self.gateway, prefsrc=self.source, flags=["onlink"]
        )


_LONGEST_QUEUE_S: Final = 0.05
_LARGEST_PACKET_B: Final = 64 * 1024


@dataclass(frozen=True, slots=True)
class LimitRate:
    """Limit the rate at which traffic leaves a link (token bucket). Packets that would wait longer than 50 ms are dropped."""

    link: str
    bit_per_s: int

    async def send(self, route: Any) -> None:
        """Send the request; raises OSError or NetlinkError."""
        rate_b = self.bit_per_s // 8
        # Enough for 10 ms, and never less than segmentation offload passes on as one packet.
        burst_b = max(4 * _LARGEST_PACKET_B, rate_b // 100)
        await route.tc(
            "add",
            kind="tbf",
            index=socket.if_nametoindex(self.link),
            handle="1:",
            rate=rate_b,
            burst=burst_b,
            limit=burst_b + int(rate_b * _LONGEST_QUEUE_S),
        )


@dataclass(frozen=True, slots=True)
class RemoveLink:
    """Remove a link, and with it its routes and the other end of a veth pair. A missing link is ignored."""

    link: str

    async def send(self, route: Any) -> None:
        """Send the request; raises OSError or NetlinkError."""
        try:
            await route.link("del", index=socket.if_nametoindex(self.link))
        except (OSError, NetlinkError):
            if self.link in link_names():
                raise


async def send_all(requests: Sequence[Request], *, namespace: str | None = None) -> None:
    """Send `requests` in order within `namespace` (None: the caller's).

    Raises:
        KernelError: a request failed; those before it remain in effect.
    """
    await in_namespace(namespace, partial(_run_loop, requests))


def link_names() -> list[str]:
    """Return the names of the links in the calling thread's namespace."""
    return [name for _, name in socket.if_nameindex()]


def on_link_networks() -> list[IPv4Network]:
    """Return the networks that the calling thread's namespace reaches without a gateway, from its main routing table.

    Routes that cover half of all addresses or more are omitted: such a route, e.g. into a tunnel, is a
    default route.
    """
    with asyncio.Runner(loop_factory=asyncio.SelectorEventLoop) as runner:
        return runner.run(_on_link_networks())


async def _on_link_networks() -> list[IPv4Network]:
    found: list[IPv4Network] = []
    try:
        async with AsyncIPRoute(groups=0) as opened:
            route: Any = opened  # pyroute2's methods are not typed
            async for entry in await route.route("dump", family=socket.AF_INET, table=_MAIN_TABLE):
                length = entry["dst_len"]
                if (
                    entry["scope"] == _SCOPE_LINK
                    and entry["type"] == _UNICAST
                    and length >= _SHORTEST_ON_LINK
                ):
                    found.append(IPv4Network((entry.get("dst"), length)))
    except (OSError, NetlinkError) as error:
        raise KernelError(
            "The kernel did not tell the host's routes.", context={"reason": str(error)}
        ) from error
    return found


def _run_loop(requests: Sequence[Request]) -> None:
    # Not asyncio.run, which would use the event loop policy, and so possibly uvloop.
    with asyncio.Runner(loop_factory=asyncio.SelectorEventLoop) as runner:
        runner.run(_send_in_order(requests))


async def _send_in_order(requests: Sequence[Request]) -> None:
    async with AsyncIPRoute(groups=0) as route:
        for request in requests:
            try:
                await request.send(route)
            except (OSError, NetlinkError) as error:
                raise KernelError(
                    "The kernel refused a change of the host's network.",
                    context={"request": repr(request), "reason": str(error)},
                ) from error
