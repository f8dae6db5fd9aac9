"""Bytes of a port through the tunnel: what `wrenn port` does, with the control plane and a simulated host behind it."""

from __future__ import annotations

import asyncio
import json
import os
import signal
from asyncio.subprocess import PIPE

import pytest
import pytest_asyncio
import websockets
from websockets.asyncio.client import connect

from wrenn.base.units import MIB
from wrenn.guest import ports as guest_ports
from wrenn.sdk import AsyncSandbox
from wrenn.sdk.errors import (
    AuthenticationError,
    ConnectionFailedError,
    InvalidRequestError,
    PortClosedError,
    RateLimitError,
    WrennError,
)
from wrenn.sdk.port_forward import forwarded_port
from wrenn.sdk.settings import ClientSettings, client_settings

from .conftest import DEADLINE_S, Platform
from .guest_programs import program
from .typed_commands import command, environment, wrenn

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest.fixture
def platform(team_platform: Platform) -> Platform:
    """The module's, with a team of the test's own."""
    return team_platform


@pytest_asyncio.fixture(loop_scope="module")
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


async def test_a_connection_that_fails_is_reported_and_closed(platform: Platform, sandbox_id: str):
    stranger = (await platform.other_team()).reveal()
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


async def test_a_sandbox_has_a_limited_number_of_tunnels(
    platform: Platform, sandbox_id: str, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(guest_ports, "TUNNELS", 1)
    errors: list[WrennError] = []
    async with (
        asyncio.timeout(DEADLINE_S),
        program(echo) as port,
        forwarded_port(settings_of(platform), sandbox_id, port, on_error=errors.append) as local,
    ):
        reader, writer = await asyncio.open_connection("127.0.0.1", local)
        assert await reader.readline() == b"hello\n"
        refused, other = await asyncio.open_connection("127.0.0.1", local)
        assert await refused.read() == b""
        other.close()
        assert isinstance(errors[0], RateLimitError), errors
        writer.write_eof()
        assert await reader.read() == b"bye\n"
        writer.close()


async def test_a_pause_and_an_end_cut_it(platform: Platform, sandbox_id: str):
    ended = asyncio.Event()
    errors: list[WrennError] = []

    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"hello\n")
        try:
            await reader.read()
        finally:
            ended.set()

    async with (
        asyncio.timeout(DEADLINE_S),
        program(handler) as port,
        forwarded_port(settings_of(platform), sandbox_id, port, on_error=errors.append) as local,
    ):
        reader, writer = await asyncio.open_connection("127.0.0.1", local)
        assert await reader.readline() == b"hello\n"
        assert (await platform.api.post(f"/v1/sandboxes/{sandbox_id}/pause")).status_code == 200
        # Not as by a program that has sent everything: what came so far must not be taken for all.
        with pytest.raises(ConnectionResetError):
            await reader.read()
        assert isinstance(errors.pop(), ConnectionFailedError)
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


async def test_the_command_forwards_until_it_is_interrupted(platform: Platform, sandbox_id: str):
    async with asyncio.timeout(2 * DEADLINE_S), program(echo) as port:
        process = await asyncio.create_subprocess_exec(
            *command("port", sandbox_id, str(port), "0", "--json"),
            env=environment(platform),
            stdout=PIPE,
            stderr=PIPE,
        )
        assert process.stdout is not None
        told = b""
        while not told.rstrip().endswith(b"}"):
            told += await process.stdout.readline()
        local = json.loads(told)
        assert (local["address"], local["sandbox_port"]) == ("127.0.0.1", port)
        reader, writer = await asyncio.open_connection("127.0.0.1", local["port"])
        assert await reader.readline() == b"hello\n"
        process.send_signal(signal.SIGINT)
        _, errors = await process.communicate()
        assert (process.returncode, errors) == (0, b"")
        writer.close()
        code, printed, _ = await wrenn(platform, "port", "cl-" + "0" * 25, "80")
        assert (code, printed) == (3, "")
        _, link, _ = await wrenn(platform, "link", sandbox_id, "8000", "--expires", "60")
        assert link.startswith(f"http://8000-{sandbox_id}.localhost:")


async def test_the_sdk_names_hosts_and_urls(platform: Platform, sandbox_id: str):
    key, url = platform.key.reveal(), platform.url
    sandbox = await AsyncSandbox.connect(sandbox_id, api_key=key, base_url=url)
    port = platform.url.rpartition(":")[2]
    assert sandbox.get_host(8000) == f"8000-{sandbox_id}.localhost:{port}"
    assert await sandbox.get_url(8000) == f"http://8000-{sandbox_id}.localhost:{port}/"
    link = await sandbox.get_url(8000, expires_in_sec=60)
    assert link.startswith(f"http://8000-{sandbox_id}.localhost:{port}/?wrenn_link=")
    with pytest.raises(InvalidRequestError):
        await sandbox.get_url(0, expires_in_sec=60)
    await sandbox.close()
    public = await AsyncSandbox.create(public_ports=[80], api_key=key, base_url=url)
    assert (await public.info()).public_ports == (80,)
    await public.kill()
