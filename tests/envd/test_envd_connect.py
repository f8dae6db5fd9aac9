"""`GET /connect`: joining a connection with a program on loopback, by the client that the agent uses and by hand."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Iterator

import pytest
from conftest import running_at
from guest_kit import Envd

from wrenn.base.errors import Forbidden, PortClosed
from wrenn.guest import GuestPorts
from wrenn.guest.connect import ENVD_PORT

GUEST = "127.0.0.2"
"""Stands for the guest's outer address: nothing of a program that listens on 127.0.0.1 answers here."""


@pytest.fixture
def guest() -> Iterator[Envd]:
    with running_at(GUEST, ENVD_PORT) as agent:
        yield agent


@pytest.fixture
async def ports(guest: Envd) -> AsyncIterator[GuestPorts]:
    ports = GuestPorts(GUEST, {})
    yield ports
    await ports.close()


def asked(query: str, upgrade: str = "wrenn-stream") -> bytes:
    with socket.create_connection((GUEST, ENVD_PORT), timeout=10) as connection:
        connection.sendall(
            f"GET /connect?{query} HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: {upgrade}\r\n\r\n".encode()
        )
        return connection.recv(4096)


def test_what_cannot_be_joined_is_refused(guest: Envd) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        assert asked(f"port={port}").startswith(b"HTTP/1.1 101 ")
        assert asked(f"port={port}", upgrade="websocket").startswith(b"HTTP/1.1 426 ")
    assert asked(f"port={port}").startswith(b"HTTP/1.1 404 ")
    for bad in ("", "port=", "port=0", "port=65536", "port=x", f"port={ENVD_PORT}"):
        assert asked(bad).startswith(b"HTTP/1.1 400 "), bad


@pytest.mark.parametrize("address", ["127.0.0.1", "::1"])
async def test_a_program_on_loopback_is_reached(ports: GuestPorts, address: str) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"I speak first\n")
        data = await reader.read()
        writer.write(data[::-1])
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(serve, address, 0)
    port = server.sockets[0].getsockname()[1]
    async with asyncio.timeout(30):
        reader, writer = await ports.dial(port)
        assert await reader.readline() == b"I speak first\n"
        writer.write(b"abc" * 100_000)
        writer.write_eof()
        assert await reader.read() == b"cba" * 100_000
        ports.abort_stream(writer)
        server.close()
        with pytest.raises(PortClosed):
            await ports.dial(port)
        with pytest.raises(Forbidden):
            await ports.dial(ENVD_PORT)


async def test_its_http_is_too_and_its_connections_are_kept(ports: GuestPorts) -> None:
    connections = 0

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal connections
        connections += 1
        while await reader.readuntil(b"\r\n\r\n"):
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")

    async with asyncio.timeout(30), await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        for _ in range(5):
            async with ports.session.get(ports.url(port, "/")) as answer:
                assert await answer.text() == "ok"
        assert connections == 1
        await ports.close()
        async with ports.session.get(ports.url(port, "/")) as answer:
            assert await answer.text() == "ok"
        assert connections == 2
        await ports.close()


async def test_the_end_of_a_program_ends_its_callers(ports: GuestPorts) -> None:
    stop = asyncio.Event()

    async def serve(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await stop.wait()
        writer.transport.abort()

    async with asyncio.timeout(30), await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        callers = [await ports.dial(port) for _ in range(20)]
        stop.set()
        for reader, writer in callers:
            try:
                assert await reader.read() == b""
            except ConnectionError:
                pass
            ports.abort_stream(writer)
