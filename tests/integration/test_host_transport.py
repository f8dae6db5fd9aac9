"""The connections to agents: certificates are replaced while requests go on (`control/hosts/transport.py`)."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from yarl import URL

from wrenn.control.hosts import CertificateRenewal, HostClients, ensure_pki
from wrenn.control.hosts.transport import HostTransport


@dataclass
class TlsServer:
    """Answers each request with the serial number of its client's certificate; a stream says it again when told to."""

    url: URL = field(default_factory=URL)
    again: asyncio.Event = field(default_factory=asyncio.Event)
    connections: int = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        serial = str(writer.get_extra_info("peercert")["serialNumber"]).encode()
        chunk = b"%x\r\n%s\r\n" % (len(serial), serial)
        try:
            while head := await reader.readuntil(b"\r\n\r\n"):
                writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + chunk)
                if head.startswith(b"GET /stream"):
                    await writer.drain()
                    await self.again.wait()
                    writer.write(chunk)
                writer.write(b"0\r\n\r\n")
                await writer.drain()
        except (asyncio.IncompleteReadError, OSError):
            pass
        finally:
            writer.close()


@pytest.fixture
def certificates(tmp_path: Path) -> Path:
    ensure_pki(tmp_path / "certificates")
    return tmp_path / "certificates"


@pytest.fixture
async def server(certificates: Path) -> AsyncIterator[TlsServer]:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=certificates / "ca.pem")
    context.load_cert_chain(certificates / "agent.pem", certificates / "agent.key")
    context.verify_mode = ssl.CERT_REQUIRED
    server = TlsServer()
    async with await asyncio.start_server(server.serve, "127.0.0.1", 0, ssl=context) as listening:
        server.url = URL(f"https://127.0.0.1:{listening.sockets[0].getsockname()[1]}")
        yield server


@pytest.fixture
async def transport(certificates: Path) -> AsyncIterator[HostTransport]:
    transport = HostTransport(certificates)
    yield transport
    await transport.close()


async def _certificate(transport: HostTransport, server: TlsServer) -> str:
    response: Any = await transport.request("GET", server.url)
    return (await response.read()).decode()


async def test_a_new_certificate_is_used_at_once_and_open_streams_go_on(
    certificates: Path, server: TlsServer, transport: HostTransport
) -> None:
    first = await _certificate(transport, server)
    assert await _certificate(transport, server) == first
    assert server.connections == 1, "an idle connection is used again"
    stream = await transport.request("GET", server.url / "stream")
    assert (await stream.content.readany()).decode() == first

    (certificates / "control.pem").unlink()
    ensure_pki(certificates)
    assert await _certificate(transport, server) == first, "nothing changes by itself"
    transport.reload_tls()

    second = await _certificate(transport, server)
    assert second != first
    assert await _certificate(transport, server) == second
    server.again.set()
    assert (await stream.read()).decode() == first, "the stream of before lives on"


async def test_certificates_that_do_not_fit_leave_the_former_in_use(
    certificates: Path, server: TlsServer, transport: HostTransport
) -> None:
    first = await _certificate(transport, server)
    (certificates / "control.key").write_bytes((certificates / "agent.key").read_bytes())
    with pytest.raises(OSError, match="KEY_VALUES_MISMATCH"):
        transport.reload_tls()
    assert await _certificate(transport, server) == first


async def test_the_control_plane_renews_its_certificate_and_drops_no_call(
    certificates: Path, server: TlsServer
) -> None:
    clients = HostClients(certificates)
    renewal = CertificateRenewal(certificates, None, clients)
    transport: HostTransport = clients._transport  # pyright: ignore[reportPrivateUsage]
    try:
        first = await _certificate(transport, server)
        open_stream: Any = await transport.request("GET", server.url / "stream")
        assert (await open_stream.content.readany()).decode() == first
        await renewal.renew_once()
        assert await _certificate(transport, server) == first, "it is not due"
        # What is not signed by the CA is renewed at once, as what is about to expire is.
        (certificates / "control.pem").unlink()
        await renewal.renew_once()
        second = await _certificate(transport, server)
        assert second != first
        server.again.set()
        assert (await open_stream.content.readany()).decode() == first, "the open stream goes on"
        # Another program that shares the folder renews it.
        (certificates / "control.pem").unlink()
        ensure_pki(certificates)
        await renewal.renew_once()
        assert await _certificate(transport, server) not in (first, second)
    finally:
        await clients.close()
