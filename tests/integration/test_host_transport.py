"""The connections to agents (`control/hosts/transport.py`): only the host that is meant is called, and certificates are replaced while requests go on."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from cryptography import x509

from wrenn.agent.enrolment import CredentialsFile, ServerTls
from wrenn.base.errors import InvalidRequest, Unavailable
from wrenn.base.ids import HostId
from wrenn.control.hosts import (
    CertificateRenewal,
    HostClients,
    HostEndpoint,
    HostNotConnected,
    authority,
    ensure_pki,
)
from wrenn.control.hosts.transport import HostConnection, HostTransport
from wrenn.testing.enrolment import issue_credentials
from wrenn.testing.server import free_port


@dataclass
class TlsServer:
    """Answers each request with the serial number of its client's certificate; a stream says it again when told to."""

    endpoint: HostEndpoint
    again: asyncio.Event = field(default_factory=asyncio.Event)
    connections: int = 0
    breaks_off: bool = False

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        serial = str(writer.get_extra_info("peercert")["serialNumber"]).encode()
        chunk = b"%x\r\n%s\r\n" % (len(serial), serial)
        try:
            while head := await reader.readuntil(b"\r\n\r\n"):
                if self.breaks_off:
                    break
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
async def server(certificates: Path, tmp_path: Path) -> AsyncIterator[TlsServer]:
    """A server with the certificate of a host."""
    server = TlsServer(HostEndpoint(HostId.new(), "", 0))
    (tmp_path / "host").mkdir()
    endpoint = issue_credentials(tmp_path / "host", certificates, "127.0.0.1:1")
    credentials = CredentialsFile(tmp_path / "host").load()
    assert credentials is not None
    context = ServerTls(credentials).context
    async with await asyncio.start_server(server.serve, "127.0.0.1", 0, ssl=context) as listening:
        port = listening.sockets[0].getsockname()[1]
        server.endpoint = HostEndpoint(endpoint.host_id, f"https://127.0.0.1:{port}", 0)
        yield server


@pytest.fixture
async def transport(certificates: Path) -> AsyncIterator[HostTransport]:
    transport = HostTransport(certificates)
    yield transport
    await transport.close()


@pytest.fixture
def connection(server: TlsServer, transport: HostTransport) -> HostConnection:
    return transport.connection_to(server.endpoint)


async def _certificate(connection: HostConnection) -> str:
    response: Any = await connection.request("GET", connection.url("/"))
    return (await response.read()).decode()


async def test_only_a_call_that_cannot_have_arrived_counts_as_not_sent(
    certificates: Path, server: TlsServer
) -> None:
    clients = HostClients(certificates)
    try:
        server.breaks_off = True
        with pytest.raises(Unavailable) as lost:
            await clients.at(server.endpoint).report(timeout_s=5)
        assert not isinstance(lost.value, HostNotConnected)
        assert server.connections
        for address in (f"https://127.0.0.1:{free_port()}", ""):
            with pytest.raises(HostNotConnected):
                await clients.at(HostEndpoint(HostId.new(), address, 0)).report(timeout_s=5)
    finally:
        await clients.close()


@pytest.mark.parametrize("fault", ["another_ca", "expired"])
async def test_a_certificate_of_another_ca_or_an_expired_one_is_not_accepted(
    fault: str, certificates: Path, server: TlsServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if fault == "expired":
        monkeypatch.setattr(authority, "AGENT_LIFE", -authority.CLOCK_SKEW / 2)
    signer = tmp_path / "another_ca" if fault == "another_ca" else certificates
    (tmp_path / "former").mkdir()
    endpoint = issue_credentials(tmp_path / "former", signer, "127.0.0.1:1")
    credentials = CredentialsFile(tmp_path / "former").load()
    assert credentials is not None
    context = ServerTls(credentials).context
    clients = HostClients(certificates)
    try:
        async with await asyncio.start_server(server.serve, "127.0.0.1", 0, ssl=context) as listening:
            port = listening.sockets[0].getsockname()[1]
            at = HostEndpoint(endpoint.host_id, f"https://127.0.0.1:{port}", 0)
            with pytest.raises(HostNotConnected) as refused:
                await clients.at(at).report(timeout_s=5)
        assert "certificate" in str(refused.value.context).lower()
        assert not server.connections
    finally:
        await clients.close()


async def test_a_name_of_this_machine_is_not_called(certificates: Path, server: TlsServer) -> None:
    clients = HostClients(certificates)
    try:
        at = replace(server.endpoint, address=server.endpoint.address.replace("127.0.0.1", "localhost"))
        with pytest.raises(HostNotConnected) as refused:
            await clients.at(at).report(timeout_s=5)
        assert "another machine" in str(refused.value.context)
        assert not server.connections
    finally:
        await clients.close()


async def test_a_server_with_the_certificate_of_another_host_is_not_called(
    certificates: Path, server: TlsServer
) -> None:
    clients = HostClients(certificates)
    try:
        other = clients.at(HostEndpoint(HostId.new(), server.endpoint.address, 0))
        with pytest.raises(Unavailable) as refused:
            await other.report(timeout_s=5)
        assert "certificate" in str(refused.value.context).lower()
        assert server.endpoint.address not in refused.value.message
    finally:
        await clients.close()


@pytest.mark.parametrize(
    ("has", "needed", "is_called"), [(0, 1, False), (1, 2, False), (2, 2, True), (2, 0, True)]
)
async def test_a_certificate_of_before_the_withdrawal_is_not_accepted(
    has: int, needed: int, is_called: bool, certificates: Path, server: TlsServer, tmp_path: Path
) -> None:
    """Needed 0: a replica of the release before, which asks for the id alone."""
    (tmp_path / "withdrawn").mkdir()
    issued = issue_credentials(tmp_path / "withdrawn", certificates, "127.0.0.1:1", cert_epoch=has)
    credentials = CredentialsFile(tmp_path / "withdrawn").load()
    assert credentials is not None
    clients = HostClients(certificates)
    context = ServerTls(credentials).context
    try:
        async with await asyncio.start_server(server.serve, "127.0.0.1", 0, ssl=context) as listening:
            port = listening.sockets[0].getsockname()[1]
            server.breaks_off = True
            at = HostEndpoint(issued.host_id, f"https://127.0.0.1:{port}", needed)
            with pytest.raises(Unavailable) as refused:
                await clients.at(at).report(timeout_s=5)
        assert ("certificate" in str(refused.value.context).lower()) is not is_called
        assert bool(server.connections) is is_called
    finally:
        await clients.close()


async def test_who_read_the_host_before_the_withdrawal_calls_it_no_more(
    certificates: Path, server: TlsServer
) -> None:
    clients = HostClients(certificates)
    try:
        withdrawn = replace(server.endpoint, address="", cert_epoch=1)
        assert clients.at(server.endpoint).endpoint == server.endpoint
        assert clients.at(withdrawn).endpoint == withdrawn
        with pytest.raises(HostNotConnected):
            await clients.at(server.endpoint).report(timeout_s=5)
        assert not server.connections
        assert clients.at(withdrawn) is clients.at(withdrawn)
    finally:
        await clients.close()


async def test_who_holds_the_client_of_before_the_withdrawal_calls_it_no_more(
    certificates: Path, server: TlsServer
) -> None:
    """As a build does between two steps."""
    clients = HostClients(certificates)
    try:
        held = clients.at(server.endpoint)
        clients.at(replace(server.endpoint, cert_epoch=1))
        with pytest.raises(HostNotConnected):
            await held.report(timeout_s=5)
        assert not server.connections
        held = clients.at(replace(server.endpoint, cert_epoch=1))
        for _ in range(2):
            clients.keep_hosts([])
        with pytest.raises(HostNotConnected):
            await held.report(timeout_s=5)
    finally:
        await clients.close()


async def test_what_is_open_ends_with_the_withdrawal(
    server: TlsServer, transport: HostTransport, connection: HostConnection
) -> None:
    stream = await connection.request("GET", connection.url("/stream"))
    assert await stream.content.readany()
    other = replace(server.endpoint, host_id=HostId.new())
    transport.cut(other)
    transport.cut(replace(server.endpoint, cert_epoch=1))
    reading = asyncio.create_task(stream.content.readany())
    await asyncio.sleep(0)
    assert not reading.done()
    transport.cut(server.endpoint)
    with pytest.raises((aiohttp.ClientError, ConnectionError)):
        await asyncio.wait_for(reading, 5)
    stream.close()


async def test_a_host_that_moves_gets_another_client_and_one_that_stays_the_same(
    certificates: Path, server: TlsServer
) -> None:
    clients = HostClients(certificates)
    try:
        first = clients.at(server.endpoint)
        assert clients.at(replace(server.endpoint)) is first
        moved = replace(server.endpoint, address="https://127.0.0.1:2")
        assert clients.at(moved).endpoint == moved
    finally:
        await clients.close()


async def test_a_new_certificate_is_used_at_once_and_open_streams_go_on(
    certificates: Path, server: TlsServer, transport: HostTransport, connection: HostConnection
) -> None:
    first = await _certificate(connection)
    assert await _certificate(connection) == first
    assert server.connections == 1, "an idle connection is used again"
    stream = await connection.request("GET", connection.url("/stream"))
    assert (await stream.content.readany()).decode() == first

    (certificates / "control.pem").unlink()
    ensure_pki(certificates)
    assert await _certificate(connection) == first, "nothing changes by itself"
    transport.reload_tls()

    second = await _certificate(connection)
    assert second != first
    assert await _certificate(connection) == second
    server.again.set()
    assert (await stream.read()).decode() == first, "the stream of before lives on"


async def test_certificates_that_do_not_fit_leave_the_former_in_use(
    certificates: Path, transport: HostTransport, connection: HostConnection
) -> None:
    first = await _certificate(connection)
    (certificates / "control.key").write_bytes((certificates / "ca.key").read_bytes())
    with pytest.raises(OSError, match="KEY_VALUES_MISMATCH"):
        transport.reload_tls()
    assert await _certificate(connection) == first


async def test_the_control_plane_renews_its_certificate_and_drops_no_call(
    certificates: Path, server: TlsServer
) -> None:
    clients = HostClients(certificates)
    renewal = CertificateRenewal(certificates, None, clients, ensure_pki(certificates))
    connection = clients._transport.connection_to(server.endpoint)  # pyright: ignore[reportPrivateUsage]
    try:
        first = await _certificate(connection)
        open_stream: Any = await connection.request("GET", connection.url("/stream"))
        assert (await open_stream.content.readany()).decode() == first
        await renewal.renew_once()
        assert await _certificate(connection) == first, "it is not due"
        # What is not signed by the CA is renewed at once, as what is about to expire is.
        (certificates / "control.pem").unlink()
        await renewal.renew_once()
        second = await _certificate(connection)
        assert second != first
        server.again.set()
        assert (await open_stream.content.readany()).decode() == first, "the open stream goes on"
        # Another program that shares the folder renews it.
        (certificates / "control.pem").unlink()
        ensure_pki(certificates)
        await renewal.renew_once()
        assert await _certificate(connection) not in (first, second)
    finally:
        await clients.close()


@pytest.mark.parametrize("lost", ["ca.pem", "ca.key"])
async def test_a_ca_that_is_missing_for_a_moment_is_not_replaced_while_the_control_plane_runs(
    certificates: Path, lost: str
) -> None:
    clients = HostClients(certificates)
    authority = ensure_pki(certificates)
    renewal = CertificateRenewal(certificates, None, clients, authority)
    content = (certificates / lost).read_bytes()
    (certificates / lost).unlink()
    (certificates / "control.pem").unlink()
    try:
        with pytest.raises(InvalidRequest, match="restore them"):
            await renewal.renew_once()
        assert not (certificates / lost).exists()
        assert renewal.authority is authority
        leaf = x509.load_pem_x509_certificate((certificates / "control.pem").read_bytes())
        assert authority.has_signed(leaf), "the certificate is renewed all the same"
        (certificates / lost).write_bytes(content)
        await renewal.renew_once()
        assert renewal.authority.identity == authority.identity
    finally:
        await clients.close()
