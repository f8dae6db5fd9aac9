"""Looks host names up at the platform's name servers, from within the namespace of one slot.

The guest's own lookups play no part: whatever address it connects to, the name is looked up here.
"""

from __future__ import annotations

import asyncio
import secrets
import socket
from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network
from typing import Final

from wrenn.base.networks import PROTECTED_NETWORKS, collapse_networks, is_within
from wrenn.linux.namespace_sockets import open_socket
from wrenn.network.dns_messages import Answer, NoAnswer, NotTheAnswer, parse_answer, question

NAMES_LIMIT: Final = 256
"""Most names of one sandbox whose addresses are remembered."""
_DATAGRAM_LIMIT: Final = 4096
_SERVER_TIMEOUT_S: Final = 2.0
"""After this time the next name server is asked."""
_SERVERS_LIMIT: Final = 3
_SHORTEST_S: Final = 5.0
_LONGEST_S: Final = 300.0
"""For how long addresses are remembered, whatever the answer says."""
_DNS_PORT: Final = 53


class NameUnknown(Exception):
    """The name has no address that a sandbox may reach, or no name server answers."""


@dataclass(frozen=True, slots=True)
class _Known:
    addresses: tuple[IPv4Address, ...]
    until: float


class NameLookup:
    """Looks names up, and remembers their addresses for the time that the answer says, within limits."""

    def __init__(
        self, namespace: str, name_servers: Iterable[IPv4Address], blocked: Iterable[IPv4Network]
    ) -> None:
        """`blocked` are networks whose addresses are ignored in answers, besides those that no sandbox may reach."""
        self._namespace = namespace
        self._name_servers = tuple(name_servers)[:_SERVERS_LIMIT]
        self._blocked = collapse_networks([*PROTECTED_NETWORKS, *blocked])
        self._known: OrderedDict[str, _Known] = OrderedDict()

    async def addresses(self, name: str) -> tuple[IPv4Address, ...]:
        """Return the addresses of `name`, which is in the form of `normal_host_name`; at least one.

        Raises:
            NameUnknown: it has none.
        """
        now = asyncio.get_running_loop().time()
        if (known := self._known.get(name)) is not None and known.until > now:
            return known.addresses
        answer = await self._ask(name)
        # A name of somebody else's domain may have any address, also one of the operator's network.
        reachable = tuple(
            address for address in answer.addresses if not is_within(IPv4Network(address), self._blocked)
        )
        if not reachable:
            raise NameUnknown(f"{name} has no address that a sandbox may reach")
        self._known[name] = _Known(reachable, now + min(max(answer.ttl_s, _SHORTEST_S), _LONGEST_S))
        self._known.move_to_end(name)
        while len(self._known) > NAMES_LIMIT:
            self._known.popitem(last=False)
        return reachable

    async def _ask(self, name: str) -> Answer:
        for server in self._name_servers:
            try:
                async with asyncio.timeout(_SERVER_TIMEOUT_S):
                    answer = await self._ask_by_datagram(server, name)
                    if answer.is_truncated:
                        answer = await self._ask_by_stream(server, name)
            except (OSError, TimeoutError, NoAnswer, NotTheAnswer):
                continue
            if not answer.is_truncated:
                return answer
        raise NameUnknown(f"no name server answers for {name}")

    async def _ask_by_datagram(self, server: IPv4Address, name: str) -> Answer:
        message_id = secrets.randbelow(1 << 16)
        with await open_socket(self._namespace, socket.SOCK_DGRAM) as asking:
            # Connected: the kernel drops what others than the server send.
            asking.connect((str(server), _DNS_PORT))
            asking.send(question(message_id, name))
            while True:
                message = await asyncio.get_running_loop().sock_recv(asking, _DATAGRAM_LIMIT)
                try:
                    return parse_answer(message, message_id, name)
                except NotTheAnswer:
                    continue  # forged, or late: the answer may still come

    async def _ask_by_stream(self, server: IPv4Address, name: str) -> Answer:
        message_id = secrets.randbelow(1 << 16)
        with await open_socket(self._namespace, socket.SOCK_STREAM) as asking:
            await asyncio.get_running_loop().sock_connect(asking, (str(server), _DNS_PORT))
            message = question(message_id, name)
            await asyncio.get_running_loop().sock_sendall(asking, len(message).to_bytes(2) + message)
            size = int.from_bytes(await _receive(asking, 2))
            return parse_answer(await _receive(asking, size), message_id, name)


async def _receive(connected: socket.socket, size: int) -> bytes:
    received = b""
    while len(received) < size:
        part = await asyncio.get_running_loop().sock_recv(connected, size - len(received))
        if not part:
            raise NotTheAnswer("the server ended the connection")
        received += part
    return received
