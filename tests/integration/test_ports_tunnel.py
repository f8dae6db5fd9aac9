"""Bytes of a port through the tunnel: what `wrenn port` does, with the control plane and a simulated host behind it."""

from __future__ import annotations

import asyncio
import os

import pytest
import websockets
from websockets.asyncio.client import connect

from wrenn.base.units import MIB
from wrenn.sdk.errors import AuthenticationError, ConnectionFailedError, PortClosedError, WrennError
from wrenn.sdk.port_forward import forwarded_port
from wrenn.sdk.settings import ClientSettings, client_settings

from .conftest import DEADLINE_S, Platform, make_team
from .guest_programs import program


@pytest.fixture
async def sandbox_id(platform: Platform) -> str:
    return (await platform.create()).rpartition("/")[2]


def settings_of(platform: Platform, key: str | None = None) -> ClientSettings:
    return client_settings(api_key=key or platform.key.reveal(), base_url=platform.url)


async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Speaks first, sends everything back, and ends when the other side has written all."""
    writer.write(b"hello\n")
    while data := await reader.read(65536):
        writer.write(data)
        await writer.drain()
    writer.write(b"bye\n")
    await writer.drain()
    writer.write_eof()
    await reader.read()


async def test_bytes_pass_both_ways_and_each_side_ends_by_itself(platform: Platform, sandbox_id: str):
    data = os.urandom(8 * MIB)
    async with (
        asyncio.timeout(DEADLINE_S),
        program(echo) as port,
        forwarded_port(settings_of(platform), sandbox_id, port) as local,
    ):
        for size in (0, 1, len(data)):
            reader, writer = await asyncio.open_connection("127.0.0.1", local)
            assert await reader.readline() == b"hello\n"

            async def upload(writer: asyncio.StreamWriter = writer, size: int = size) -> None:
                writer.write(data[:size])
                await writer.drain()
                writer.write_eof()

            task = asyncio.create_task(upload())
            assert await reader.read() == data[:size] + b"bye\n"
            await task
            writer.close()


async def test_many_connections_at_once_stay_apart(platform: Platform, sandbox_id: str):
    async with (
        asyncio.timeout(DEADLINE_S),
        program(echo) as port,
        forwarded_port(settings_of(platform), sandbox_id, port) as local,
    ):

        async def one(number: int) -> None:
            reader, writer = await asyncio.open_connection("127.0.0.1", local)
            assert await reader.readline() == b"hello\n"
            for _ in range(5):
                writer.write(b"%d\n" % number)
                assert await reader.readline() == b"%d\n" % number
            writer.close()

        await asyncio.gather(*(one(number) for number in range(20)))


async def test_a_connection_that_cannot_be_is_told_and_closed(
    platform: Platform, sandbox_id: str, database_url: str
):
    stranger = (await make_team(database_url, "eve")).reveal()
    async with program(echo) as port:
        pass
    nobody = ClientSettings(platform.key, "http://127.0.0.1:9", 5)
    for settings, kind in [
        (settings_of(platform), PortClosedError),
        (settings_of(platform, stranger), WrennError),
        (settings_of(platform, "wrn_" + "0" * 32), AuthenticationError),
        (nobody, ConnectionFailedError),
    ]:
        errors: list[WrennError] = []
        async with (
            asyncio.timeout(DEADLINE_S),
            forwarded_port(settings, sandbox_id, port, on_error=errors.append) as local,
        ):
            reader, writer = await asyncio.open_connection("127.0.0.1", local)
            assert await reader.read() == b""
            writer.close()
        assert isinstance(errors[0], kind), errors


async def test_a_pause_and_an_end_cut_it(platform: Platform, sandbox_id: str):
    ended = asyncio.Event()

    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"hello\n")
        try:
            await reader.read()
        finally:
            ended.set()

    async with (
        asyncio.timeout(DEADLINE_S),
        program(handler) as port,
        forwarded_port(settings_of(platform), sandbox_id, port) as local,
    ):
        reader, writer = await asyncio.open_connection("127.0.0.1", local)
        assert await reader.readline() == b"hello\n"
        assert (await platform.api.post(f"/v1/sandboxes/{sandbox_id}/pause")).status_code == 200
        assert await reader.read() == b""
        writer.close()
        await ended.wait()
        assert (await platform.api.post(f"/v1/sandboxes/{sandbox_id}/resume")).status_code == 200
        ended.clear()
        reader, writer = await asyncio.open_connection("127.0.0.1", local)
        assert await reader.readline() == b"hello\n"
        writer.transport.abort()
        await ended.wait()


async def test_a_tunnel_needs_a_key(platform: Platform, sandbox_id: str):
    url = f"{platform.url.replace('http:', 'ws:')}/v1/sandboxes/{sandbox_id}/ports/80/tunnel"
    for key, status in [(None, 401), ("nonsense", 401)]:
        headers = {"X-API-Key": key} if key else {}
        with pytest.raises(websockets.InvalidStatus) as caught:
            await connect(url, additional_headers=headers, proxy=None)
        assert caught.value.response.status_code == status
    for port in ("0", "99999", "49983"):
        bad = f"{platform.url.replace('http:', 'ws:')}/v1/capsules/{sandbox_id}/ports/{port}/tunnel"
        with pytest.raises(websockets.InvalidStatus) as caught:
            await connect(bad, additional_headers={"X-API-Key": platform.key.reveal()}, proxy=None)
        assert caught.value.response.status_code == 400
