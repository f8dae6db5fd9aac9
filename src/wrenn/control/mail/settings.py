"""Settings of mail, from the environment. Documented in docs/reference/settings.md."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from email.utils import parseaddr
from enum import StrEnum
from ipaddress import ip_address
from pathlib import Path
from typing import Final, Self

from wrenn.base.errors import InvalidRequest
from wrenn.base.secrets import Secret
from wrenn.control.mail.message import Mailbox, is_mailable

_PREFIX: Final = "WRENN_SMTP_"
_PASSWORD_LIMIT_B: Final = 4096


class Tls(StrEnum):
    """How the connection to the mail server is encrypted."""

    STARTTLS = "starttls"
    """It begins in the clear and must change to TLS before anything is said."""
    TLS = "tls"
    """From the first byte."""
    NONE = "none"


_PORTS: Final = {Tls.STARTTLS: 587, Tls.TLS: 465, Tls.NONE: 25}


@dataclass(frozen=True, slots=True)
class MailSettings:
    """The operator's mail server, and the sender and links of mails.

    Attributes:
        user, password: for the server; None: it takes mail without a login.
        ca_file: certificates that vouch for the server, instead of the system's.
        sender: whom mails are from.
        public_url: where links in mails lead. Never what a request says: it would choose where secrets go.
    """

    host: str
    port: int
    tls: Tls
    user: str | None
    password: Secret | None
    ca_file: Path | None
    sender: Mailbox
    public_url: str

    @classmethod
    def from_environment(cls, environment: Mapping[str, str], public_url: str | None) -> Self | None:
        """Read `WRENN_SMTP_*`; None: no mail is sent.

        Raises:
            InvalidRequest: a value that cannot be used; the message names the setting, and never the password.
        """
        given = {
            name.removeprefix(_PREFIX): environment[name] for name in environment if name.startswith(_PREFIX)
        }
        given = {name: text for name, text in given.items() if text}
        host = given.get("HOST", "")
        if not host:
            if given:
                raise InvalidRequest(f"{_PREFIX}{min(given)} is set, but {_PREFIX}HOST is not.")
            return None
        if any(character.isspace() or character in "/@" for character in host):
            raise InvalidRequest(f"{_PREFIX}HOST must be the name or address of a mail server, not {host!r}.")
        if public_url is None:
            raise InvalidRequest(
                f"{_PREFIX}HOST needs WRENN_PUBLIC_URL: mails hold links that must lead to this platform."
            )
        tls = _tls(given.get("TLS", Tls.STARTTLS))
        user, password = given.get("USER"), _password(given)
        if (user is None) != (password is None):
            raise InvalidRequest(
                f"{_PREFIX}USER and a password ({_PREFIX}PASSWORD_FILE or {_PREFIX}PASSWORD) belong together: "
                "set both or neither."
            )
        if password is not None and tls is Tls.NONE and not _is_loopback(host):
            raise InvalidRequest(
                f"{_PREFIX}TLS=none would send the password in the clear to {host}: use starttls or tls."
            )
        ca_file = given.get("CA_FILE")
        return cls(
            host=host,
            port=_port(given, tls),
            tls=tls,
            user=user,
            password=password,
            ca_file=None if ca_file is None else Path(ca_file),
            sender=_sender(given),
            public_url=public_url,
        )


def _tls(text: str) -> Tls:
    try:
        return Tls(text)
    except ValueError:
        raise InvalidRequest(f"{_PREFIX}TLS must be starttls, tls or none, not {text!r}.") from None


def _port(given: Mapping[str, str], tls: Tls) -> int:
    text = given.get("PORT") or str(_PORTS[tls])
    if not text.isascii() or not text.isdigit() or not 1 <= int(text[:9]) <= 65_535:
        raise InvalidRequest(f"{_PREFIX}PORT must be a whole number from 1 to 65535, not {text!r}.")
    return int(text)


def _password(given: Mapping[str, str]) -> Secret | None:
    text, file = given.get("PASSWORD"), given.get("PASSWORD_FILE")
    if file is None:
        return None if text is None else Secret(text)
    if text is not None:
        raise InvalidRequest(f"{_PREFIX}PASSWORD and {_PREFIX}PASSWORD_FILE are both set: set one.")
    try:
        with Path(file).open("rb") as opened:
            content = opened.read(_PASSWORD_LIMIT_B + 1)
        password = content.decode().rstrip("\r\n")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
        raise InvalidRequest(f"{_PREFIX}PASSWORD_FILE cannot be read: {file}: {reason}.") from None
    if not password or len(content) > _PASSWORD_LIMIT_B or any(mark in password for mark in "\r\n\0"):
        raise InvalidRequest(
            f"{_PREFIX}PASSWORD_FILE must hold one line of at most {_PASSWORD_LIMIT_B} bytes: {file}."
        )
    return Secret(password)


def _sender(given: Mapping[str, str]) -> Mailbox:
    text = given.get("FROM", "")
    name, address = parseaddr(text)
    if not is_mailable(address) or not all(mark.isprintable() for mark in text):
        raise InvalidRequest(
            f"{_PREFIX}FROM must be an e-mail address, like wrenn@example.com or Wrenn <wrenn@example.com>, not {text!r}."
        )
    return Mailbox(name, address)


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False
