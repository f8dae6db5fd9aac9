"""A name server for tests: it answers what it is told to, also with forged and truncated answers."""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from ipaddress import IPv4Address

from wrenn.linux.namespaces import in_namespace


@dataclass
class NameServer:
    """Answers with the addresses of `zone`; `asked` has the names that it was asked for.

    Attributes:
        forged: sent before each answer over UDP, with the id of the question changed.
        streams_only: answers over UDP are empty and marked as truncated.
        silent: answers nothing.
    """

    zone: dict[str, list[str]] = field(default_factory=dict[str, list[str]])
    asked: list[str] = field(default_factory=list[str])
    forged: list[str] = field(default_factory=list[str])
    streams_only: bool = False
    silent: bool = False

    def answer(self, message: bytes, addresses: list[str] | None = None, *, id_change: int = 0) -> bytes:
        labels: list[str] = []
        at = 12
        while message[at]:
            labels.append(message[at + 1 : at + 1 + message[at]].decode())
            at += message[at] + 1
        name = ".".join(labels)
        if addresses is None:
            self.asked.append(name)
            addresses = self.zone.get(name, [])
        message_id = struct.unpack_from(">H", message)[0] ^ id_change
        records = b"".join(
            b"\xc0\x0c" + struct.pack(">HHIH", 1, 1, 60, 4) + IPv4Address(address).packed
            for address in addresses
        )
        return (
            struct.pack(">HHHHHH", message_id, 0x8180, 1, len(addresses), 0, 0)
            + message[12 : at + 5]
            + records
        )

    def serve_datagram(self, listening: socket.socket) -> None:
        message, sender = listening.recvfrom(4096)
        if self.silent:
            return
        for address in self.forged:
            listening.sendto(self.answer(message, [address], id_change=1), sender)
        if self.streams_only:
            listening.sendto(message[:2] + b"\x83\x80" + message[4:], sender)
        else:
            listening.sendto(self.answer(message), sender)

    async def serve_stream(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(asyncio.IncompleteReadError):
            size = int.from_bytes(await reader.readexactly(2))
            answer = self.answer(await reader.readexactly(size))
            writer.write(len(answer).to_bytes(2) + answer)
        writer.close()


@asynccontextmanager
async def name_server(namespace: str, address: str, zone: dict[str, list[str]]) -> AsyncGenerator[NameServer]:
    """Run a name server in a network namespace, at port 53 of an address that it has."""
    running = NameServer(zone)
    datagrams, streams = [
        await in_namespace(namespace, partial(socket.socket, socket.AF_INET, kind))
        for kind in (socket.SOCK_DGRAM, socket.SOCK_STREAM)
    ]
    loop = asyncio.get_running_loop()
    datagrams.setblocking(False)
    datagrams.bind((address, 53))
    streams.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    streams.bind((address, 53))
    loop.add_reader(datagrams, running.serve_datagram, datagrams)
    listening = await asyncio.start_server(running.serve_stream, sock=streams)
    try:
        yield running
    finally:
        loop.remove_reader(datagrams)
        datagrams.close()
        listening.close()
