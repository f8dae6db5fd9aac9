"""A real mail server on loopback, by aiosmtpd: keeps what it takes, and misbehaves as it is told."""

from __future__ import annotations

import asyncio
import datetime as dt
import ipaddress
import re
import ssl
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from email import message_from_bytes
from email.message import EmailMessage
from email.policy import default
from pathlib import Path
from typing import Any

from aiosmtpd.smtp import SMTP, AuthResult, LoginPassword
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

USER, PASSWORD = "wrenn", "mail server's password"
_DEADLINE_S = 30.0


@dataclass
class MailServer:
    """Attributes:
    mails: what was taken, by the order.
    envelopes: sender and recipients of each.
    refuse: what is answered to a recipient, if not 250.
    answering: while it is not set, the server thinks about the mails that it was given.
    thinking: about how many it does.
    """

    port: int = 0
    tls: ssl.SSLContext | None = None
    is_tls_from_begin: bool = False
    wants_login: bool = False
    mails: list[EmailMessage] = field(default_factory=list[EmailMessage])
    envelopes: list[tuple[str, list[str], bool]] = field(default_factory=list[tuple[str, list[str], bool]])
    refuse: str = ""
    answering: asyncio.Event = field(default_factory=asyncio.Event)
    thinking: int = 0
    _server: asyncio.Server | None = None

    async def handle_RCPT(self, server: Any, session: Any, envelope: Any, address: str, options: Any) -> str:  # noqa: N802
        if self.refuse:
            return self.refuse
        envelope.rcpt_tos.append(address)
        return "250 OK"

    async def handle_DATA(self, server: Any, session: Any, envelope: Any) -> str:  # noqa: N802
        self.thinking += 1
        await self.answering.wait()
        self.thinking -= 1
        message = message_from_bytes(envelope.content, policy=default)
        assert isinstance(message, EmailMessage)
        self.mails.append(message)
        self.envelopes.append((envelope.mail_from, envelope.rcpt_tos, session.ssl is not None))
        return "250 OK"

    def _authenticate(
        self, server: Any, session: Any, envelope: Any, mechanism: str, data: Any
    ) -> AuthResult:
        said = isinstance(data, LoginPassword) and (data.login, data.password) == (
            USER.encode(),
            PASSWORD.encode(),
        )
        return AuthResult(success=said, handled=False)

    async def start(self) -> None:
        """Listen, on the same port again after a stop."""
        self.answering.set()

        def protocol() -> SMTP:
            return SMTP(
                self,
                hostname="mail.test",
                ident="test",
                tls_context=None if self.is_tls_from_begin else self.tls,
                require_starttls=self.tls is not None and not self.is_tls_from_begin,
                auth_required=self.wants_login,
                authenticator=self._authenticate if self.wants_login else None,
            )

        loop = asyncio.get_running_loop()
        wrapped = self.tls if self.is_tls_from_begin else None
        self._server = await loop.create_server(protocol, "127.0.0.1", self.port, ssl=wrapped)
        self.port = self._server.sockets[0].getsockname()[1]

    async def stop(self) -> None:
        """Be down."""
        if self._server is not None:
            self._server.close()
            self._server = None
            await asyncio.sleep(0)

    async def wait_mail(self, recipient: str, number: int = 1) -> EmailMessage:
        """The so-many-th mail to this address, once it is there."""
        async with asyncio.timeout(_DEADLINE_S):
            while len(found := self.to(recipient)) < number:
                await asyncio.sleep(0.02)
        return found[number - 1]

    def to(self, recipient: str) -> list[EmailMessage]:
        """The mails to this address."""
        return [mail for mail in self.mails if str(mail["To"]) == recipient]


def text_of(mail: EmailMessage) -> str:
    """What its reader sees."""
    return str(mail.get_content())


def link_in(mail: EmailMessage) -> str:
    """The link with a token."""
    [link] = re.findall(r"https?://\S+#\S+", text_of(mail))
    return link


def token_in(mail: EmailMessage) -> str:
    """The token alone."""
    return link_in(mail).partition("#")[2]


@asynccontextmanager
async def running_mail_server(**how: Any) -> AsyncGenerator[MailServer]:
    """A server on a free port."""
    server = MailServer(**how)
    await server.start()
    try:
        yield server
    finally:
        await server.stop()


def make_certificate(folder: Path) -> tuple[ssl.SSLContext, Path]:
    """A certificate for 127.0.0.1 that nobody vouches for but its own file: the server's context, and that file."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "mail.test")])
    now = dt.datetime.now(dt.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(hours=1))
        .not_valid_after(now + dt.timedelta(hours=1))
        .add_extension(
            x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False
        )
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(key, hashes.SHA256())
    )
    own, both = folder / "ca.pem", folder / "server.pem"
    pem = certificate.public_bytes(serialization.Encoding.PEM)
    own.write_bytes(pem)
    both.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        + pem
    )
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(both)
    return context, own
