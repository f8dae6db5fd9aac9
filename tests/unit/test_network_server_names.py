"""Which server a client names in its first bytes."""

from __future__ import annotations

import contextlib
import random
import ssl
import time

import pytest

from wrenn.network.server_names import HEAD_LIMIT, NamesNoServer, http_server_name, tls_server_name


def client_hello(name: str | None) -> bytes:
    """The greeting of a real TLS client."""
    outgoing = ssl.MemoryBIO()
    context = ssl.create_default_context()
    context.check_hostname = name is not None
    client = context.wrap_bio(ssl.MemoryBIO(), outgoing, server_hostname=name)
    with pytest.raises(ssl.SSLWantReadError):
        client.do_handshake()
    return outgoing.read()


def in_records(handshake: bytes, size: int) -> bytes:
    parts = [handshake[at : at + size] for at in range(0, len(handshake), size)]
    return b"".join(b"\x16\x03\x01" + len(part).to_bytes(2) + part for part in parts)


def test_the_name_in_a_real_greeting_is_found_however_it_is_cut():
    hello = client_hello("www.Example.com")
    assert tls_server_name(hello) == "www.example.com"
    assert tls_server_name(hello + b"later bytes") == "www.example.com"
    assert tls_server_name(in_records(hello[5:], 7)) == "www.example.com"
    for end in range(len(hello)):
        assert tls_server_name(hello[:end]) is None


@pytest.mark.parametrize(
    "start",
    [
        client_hello(None),
        b"GET / HTTP/1.1\r\n",
        b"\x16\x02\x00\x00\x01a",
        b"\x16\x03\x01\x00\x00",
        b"\x16\x03\x01\xff\xff",
        b"\x16\x03\x03\x00\x04\x02\x00\x00\x00",
        b"\x16\x03\x01\x00\x04\x01\xff\xff\xff",
        b"\x16\x03\x01\x00\x05\x01\x00\x00\x01\x03",
        client_hello("www.example.com").replace(b"www.example.com", b"127.0.0.1.12345"),
        client_hello("www.example.com").replace(b"www.example.com", b"www.example\0com"),
    ],
)
def test_a_greeting_without_a_usable_name_is_refused(start: bytes):
    with pytest.raises(NamesNoServer):
        tls_server_name(start)


def with_extensions(extensions: bytes) -> bytes:
    body = (
        b"\x03\x03"
        + bytes(32)
        + b"\0"
        + b"\x00\x02\x13\x01"
        + b"\x01\0"
        + len(extensions).to_bytes(2)
        + extensions
    )
    return in_records(b"\x01" + len(body).to_bytes(3) + body, 1 << 14)


def server_name(*names: bytes) -> bytes:
    entries = b"".join(b"\0" + len(name).to_bytes(2) + name for name in names)
    listed = len(entries).to_bytes(2) + entries
    return b"\0\0" + len(listed).to_bytes(2) + listed


def test_a_greeting_with_several_names_is_refused():
    one = server_name(b"good.example.com")
    assert tls_server_name(with_extensions(one)) == "good.example.com"
    for extensions in (
        one + server_name(b"bad.example.com"),
        server_name(b"good.example.com", b"bad.example.com"),
        b"",
        one[:-1],
    ):
        with pytest.raises(NamesNoServer):
            tls_server_name(with_extensions(extensions))


@pytest.mark.parametrize(
    ("head", "name"),
    [
        (b"GET / HTTP/1.1\r\nHost: Example.com\r\n\r\nbody", "example.com"),
        (b"GET / HTTP/1.0\nUser-Agent: x\nhost:example.com:80\n\n", "example.com"),
        (b"GET / HTTP/1.1\r\nHost: example.com\r\n", None),
        (b"", None),
    ],
)
def test_the_host_of_a_request_is_found(head: bytes, name: str | None):
    assert http_server_name(head) == name


@pytest.mark.parametrize(
    "head",
    [
        b"GET / HTTP/1.1\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a.com\r\nHost: b.com\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a.com, b.com\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a.com:x\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: 44.0.0.1\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: [::1]:80\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"SSH-2.0-client\r\n\r\n",
        b"\r\n\r\n",
    ],
)
def test_a_request_without_a_usable_host_is_refused(head: bytes):
    with pytest.raises(NamesNoServer):
        http_server_name(head)


def test_arbitrary_bytes_are_refused_quickly():
    source, hello = random.Random(15), client_hello("www.example.com")
    began = time.monotonic()
    for _ in range(1000):
        changed = bytearray(hello)
        for _ in range(source.randrange(1, 8)):
            changed[source.randrange(len(changed))] = source.randrange(256)
        with contextlib.suppress(NamesNoServer):
            tls_server_name(bytes(changed))
    tiny = in_records(b"\x01\x00\x7f\x00" + bytes(HEAD_LIMIT), 1)[:HEAD_LIMIT]
    assert tls_server_name(tiny) is None
    assert time.monotonic() - began < 10
