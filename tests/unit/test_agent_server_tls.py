"""TLS of the host API: who may connect, and a change of certificates while connections are open. Takes a second."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from wrenn.agent.enrolment import Credentials, ServerTls
from wrenn.base.ids import HostId

HOST = str(HostId.new())


@dataclass
class Leaf:
    cert_pem: str
    key_pem: str


class Ca:
    """A certificate authority of the test's own."""

    def __init__(self, name: str) -> None:
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        builder = self._builder(self._name, self._key.public_key())
        self.cert = builder.add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True).sign(
            self._key, hashes.SHA256()
        )
        self.pem = _pem(self.cert)

    def _builder(self, subject: x509.Name, key: ec.EllipticCurvePublicKey) -> x509.CertificateBuilder:
        now = datetime.now(UTC)
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self._name)
            .public_key(key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - timedelta(minutes=5))
            .not_valid_after(now + timedelta(days=1))
        )

    def leaf(self, name: str, purpose: x509.ObjectIdentifier) -> Leaf:
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        cert = (
            self._builder(subject, key.public_key())
            .add_extension(x509.ExtendedKeyUsage([purpose]), critical=False)
            .add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), critical=False)
            .sign(self._key, hashes.SHA256())
        )
        private = key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        return Leaf(_pem(cert), private.decode())

    def agent(self, name: str = HOST) -> Leaf:
        return self.leaf(name, ExtendedKeyUsageOID.SERVER_AUTH)

    def control(self) -> Leaf:
        return self.leaf("wrenn control", ExtendedKeyUsageOID.CLIENT_AUTH)


def _pem(cert: x509.Certificate) -> str:
    return cert.public_bytes(serialization.Encoding.PEM).decode()


def credentials(leaf: Leaf, *trusted: Ca) -> Credentials:
    return Credentials(
        control_url="https://control.example.com",
        host_id=HOST,
        address="127.0.0.1:1",
        token="t",
        refresh_token="r",
        key_pem=leaf.key_pem,
        cert_pem=leaf.cert_pem,
        ca_cert_pem="".join(ca.pem for ca in trusted),
        issued_at_unix=0,
        expires_at_unix=1,
    )


@asynccontextmanager
async def echo_server(tls: ServerTls) -> AsyncGenerator[int]:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while line := await reader.readline():
            writer.write(line)
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=tls.context)
    async with server:
        yield server.sockets[0].getsockname()[1]


class Client:
    """A connection of the control plane."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer

    @classmethod
    async def connect(
        cls, port: int, leaf: Leaf, *, trusts: Ca, folder: Path, server_name: str = HOST
    ) -> Client:
        context = ssl.create_default_context(cadata=trusts.pem)
        file = folder / "client.pem"
        file.write_text(leaf.key_pem + leaf.cert_pem)
        context.load_cert_chain(file)
        client = cls(
            *await asyncio.open_connection("127.0.0.1", port, ssl=context, server_hostname=server_name)
        )
        try:
            # With TLS 1.3 a client learns of the refusal of its certificate only when it reads.
            await client.echo()
        except BaseException:
            client._writer.transport.abort()
            raise
        return client

    async def echo(self) -> None:
        self._writer.write(b"hello\n")
        line = await asyncio.wait_for(self._reader.readline(), 5)
        if line != b"hello\n":
            raise ConnectionError("closed")

    def serial(self) -> int:
        found = self._writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
        return x509.load_der_x509_certificate(found).serial_number

    def close(self) -> None:
        self._writer.transport.abort()


def serial_of(leaf: Leaf) -> int:
    return x509.load_pem_x509_certificate(leaf.cert_pem.encode()).serial_number


async def test_a_new_certificate_is_used_for_new_connections_and_open_ones_go_on(tmp_path: Path) -> None:
    ca = Ca("one")
    first, second, control = ca.agent(), ca.agent(), ca.control()
    tls = ServerTls(credentials(first, ca))
    async with echo_server(tls) as port:
        before = await Client.connect(port, control, trusts=ca, folder=tmp_path)
        assert before.serial() == serial_of(first)
        tls.use(credentials(second, ca))
        after = await Client.connect(port, control, trusts=ca, folder=tmp_path)
        assert after.serial() == serial_of(second)
        await before.echo()
        before.close()
        after.close()


async def test_trust_in_a_new_ca_begins_and_in_a_former_one_ends_without_a_restart(tmp_path: Path) -> None:
    old, new = Ca("old"), Ca("new")
    tls = ServerTls(credentials(old.agent(), old))
    async with echo_server(tls) as port:
        with pytest.raises((ssl.SSLError, ConnectionError)):
            await Client.connect(port, new.control(), trusts=old, folder=tmp_path)
        tls.use(credentials(old.agent(), old, new))
        for ca in (old, new):
            (await Client.connect(port, ca.control(), trusts=old, folder=tmp_path)).close()
        tls.use(credentials(new.agent(), new))
        (await Client.connect(port, new.control(), trusts=new, folder=tmp_path)).close()
        with pytest.raises((ssl.SSLError, ConnectionError)):
            await Client.connect(port, old.control(), trusts=new, folder=tmp_path)


async def test_an_agent_cannot_call_another_agent(tmp_path: Path) -> None:
    ca = Ca("one")
    tls = ServerTls(credentials(ca.agent(), ca))
    async with echo_server(tls) as port:
        with pytest.raises((ssl.SSLError, ConnectionError)):
            await Client.connect(port, ca.agent(str(HostId.new())), trusts=ca, folder=tmp_path)


async def test_without_a_server_name_the_newest_certificate_is_shown_too(tmp_path: Path) -> None:
    ca = Ca("one")
    second = ca.agent("localhost")
    tls = ServerTls(credentials(ca.agent("localhost"), ca))
    tls.use(credentials(second, ca))
    async with echo_server(tls) as port:
        context = ssl.create_default_context(cadata=ca.pem)
        context.check_hostname = False
        control = ca.control()
        file = tmp_path / "client.pem"
        file.write_text(control.key_pem + control.cert_pem)
        context.load_cert_chain(file)
        # An IP address is no server name, so none is sent.
        reader, writer = await asyncio.open_connection(
            "127.0.0.1", port, ssl=context, server_hostname="127.0.0.1"
        )
        client = Client(reader, writer)
        await client.echo()
        assert client.serial() == serial_of(second)
        client.close()


def test_a_certificate_is_renewed_when_a_third_of_its_life_is_left() -> None:
    ca = Ca("one")
    leaf = ca.agent()
    days = 86_400.0
    weekly = replace(credentials(leaf, ca), issued_at_unix=0, expires_at_unix=9 * days)
    assert not weekly.is_renewal_due(6 * days - 1)
    assert weekly.is_renewal_due(6 * days)


def test_secrets_are_not_in_the_text_of_credentials() -> None:
    ca = Ca("one")
    leaf = ca.agent()
    assert "PRIVATE" not in repr(credentials(leaf, ca))
