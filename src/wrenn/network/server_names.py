"""Reads which server a client wants to reach, from the first bytes that it sends: TLS (RFC 8446, RFC 6066) or HTTP/1."""

from __future__ import annotations

from typing import Final

from wrenn.base.host_names import normal_host_name

HEAD_LIMIT: Final = 32 * 1024
"""Most bytes that a client may send before its server is known. With large keys and tickets a TLS greeting has about 2 KiB."""
_HANDSHAKE: Final = 22
_CLIENT_HELLO: Final = 1
_RECORD_LIMIT: Final = 1 << 14
_SERVER_NAME: Final = 0
_HOST_NAME: Final = 0


class NamesNoServer(Exception):
    """The bytes are of another protocol, malformed, or have no name of a server."""


def tls_server_name(start: bytes) -> str | None:
    """Return the server that a TLS client names in its greeting; None: more bytes are needed.

    Raises:
        NamesNoServer: it names none, or this is no TLS.
    """
    handshake = bytearray()
    at = 0
    while True:
        head = start[at : at + 5]
        if (head and head[0] != _HANDSHAKE) or (len(head) > 1 and head[1] != 3):
            raise NamesNoServer("this is not TLS")
        if len(head) < 5:
            return None
        size = int.from_bytes(head[3:])
        if not 0 < size <= _RECORD_LIMIT:
            raise NamesNoServer("a TLS record has a wrong size")
        record = start[at + 5 : at + 5 + size]
        handshake += record
        if len(handshake) >= 4:
            if handshake[0] != _CLIENT_HELLO:
                raise NamesNoServer("the first TLS message is no greeting of a client")
            end = 4 + int.from_bytes(handshake[1:4])
            if end > HEAD_LIMIT:
                raise NamesNoServer("the TLS greeting is too long")
            if len(handshake) >= end:
                return _name_in_hello(bytes(handshake[4:end]))
        if len(record) < size:
            return None
        at += 5 + size


def http_server_name(start: bytes) -> str | None:
    """Return the server that the head of an HTTP/1 request names in `Host`; None: more bytes are needed.

    Raises:
        NamesNoServer: it names none or several, or this is no HTTP/1.
    """
    head, separator, _ = start.replace(b"\r\n", b"\n").partition(b"\n\n")
    if not separator:
        return None
    request, *lines = head.decode("latin-1").split("\n")
    if not request.rpartition(" ")[2].startswith("HTTP/1."):
        raise NamesNoServer("this is not HTTP/1")
    hosts = [
        value.strip() for key, _, value in (line.partition(":") for line in lines) if key.lower() == "host"
    ]
    if len(hosts) != 1:
        raise NamesNoServer("the request needs one Host")
    name, _, port = hosts[0].partition(":")
    if port and not (port.isascii() and port.isdigit()):
        raise NamesNoServer("Host has a wrong port")
    return _checked(name)


def _name_in_hello(hello: bytes) -> str:
    fields = _Fields(hello)
    fields.take(2 + 32)  # version and random bytes
    fields.take_sized(1)  # session
    fields.take_sized(2)  # cipher suites
    fields.take_sized(1)  # compression methods
    extensions = _Fields(fields.take_sized(2))
    names: list[bytes] = []
    while extensions.remaining:
        kind, value = int.from_bytes(extensions.take(2)), _Fields(extensions.take_sized(2))
        if kind == _SERVER_NAME:
            entries = _Fields(value.take_sized(2))
            while entries.remaining:
                name_type, name = entries.take(1)[0], entries.take_sized(2)
                if name_type == _HOST_NAME:
                    names.append(name)
    # Of several names the server might take another one than we do.
    if len(names) != 1:
        raise NamesNoServer("the TLS greeting needs one server name")
    return _checked(names[0].decode("latin-1"))


def _checked(text: str) -> str:
    if (name := normal_host_name(text)) is None:
        raise NamesNoServer("this is not the name of a server")
    return name


class _Fields:
    """Reads fields one after the other."""

    def __init__(self, content: bytes) -> None:
        self._content = content
        self._at = 0

    @property
    def remaining(self) -> int:
        return len(self._content) - self._at

    def take(self, size: int) -> bytes:
        if size > self.remaining:
            raise NamesNoServer("the TLS greeting is malformed")
        self._at += size
        return self._content[self._at - size : self._at]

    def take_sized(self, size_bytes: int) -> bytes:
        """Take a field that begins with its size."""
        return self.take(int.from_bytes(self.take(size_bytes)))
