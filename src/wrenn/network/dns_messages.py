"""Messages of DNS (RFC 1035): questions for IPv4 addresses, and their answers, which may be forged or malformed."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from ipaddress import IPv4Address
from typing import Final

ADDRESSES_LIMIT: Final = 16
"""Most addresses of a name that are used."""
_RECORDS_LIMIT: Final = 64
"""Most records of an answer that are read."""
_ALIASES_LIMIT: Final = 8
_NAME_LIMIT: Final = 255
_HEAD: Final = struct.Struct(">HHHHHH")
_QUESTION_END: Final = struct.Struct(">HH")
_RECORD: Final = struct.Struct(">HHIH")
_A: Final = 1
_CNAME: Final = 5
_IN: Final = 1
_IS_RESPONSE: Final = 0x8000
_OPCODE: Final = 0x7800
_TRUNCATED: Final = 0x0200
_RECURSION_DESIRED: Final = 0x0100
_NO_ERROR: Final = 0
_NO_SUCH_NAME: Final = 3


class NotTheAnswer(Exception):
    """The message is malformed, or answers another question."""


class NoAnswer(Exception):
    """The server cannot answer the question."""


@dataclass(frozen=True, slots=True)
class Answer:
    """The addresses of a name, and for how long they are valid. None: the name has no IPv4 address.

    `is_truncated`: it did not fit into a datagram, and must be asked for over TCP.
    """

    addresses: tuple[IPv4Address, ...]
    ttl_s: int
    is_truncated: bool = False


def question(message_id: int, name: str) -> bytes:
    """Return the message that asks for the IPv4 addresses of `name`, which is in the form of `normal_host_name`."""
    labels = b"".join(bytes([len(label)]) + label.encode() for label in name.split("."))
    head = _HEAD.pack(message_id, _RECURSION_DESIRED, 1, 0, 0, 0)
    return head + labels + b"\0" + _QUESTION_END.pack(_A, _IN)


def parse_answer(message: bytes, message_id: int, name: str) -> Answer:
    """Read the answer to `question(message_id, name)`.

    Raises:
        NotTheAnswer: the message is something else. NoAnswer: the server failed or refuses.
    """
    try:
        return _parse(message, message_id, name)
    except (struct.error, IndexError) as error:
        raise NotTheAnswer("the message ends too early") from error


def _parse(message: bytes, message_id: int, name: str) -> Answer:
    found_id, flags, questions, records, _, _ = _HEAD.unpack_from(message)
    if found_id != message_id or not flags & _IS_RESPONSE or flags & _OPCODE or questions != 1:
        raise NotTheAnswer("the message answers another question")
    asked, at = _read_name(message, _HEAD.size)
    if asked != name or _QUESTION_END.unpack_from(message, at) != (_A, _IN):
        raise NotTheAnswer("the message answers another question")
    if flags & _TRUNCATED:
        return Answer((), 0, is_truncated=True)
    code = flags & 0xF
    if code == _NO_SUCH_NAME:
        return Answer((), 0)
    if code != _NO_ERROR:
        raise NoAnswer(f"the name server answers with the code {code}")
    return _follow(name, *_read_records(message, at + _QUESTION_END.size, min(records, _RECORDS_LIMIT)))


_Aliases = dict[str, tuple[str, int]]
_Addresses = dict[str, list[tuple[IPv4Address, int]]]


def _read_records(message: bytes, at: int, count: int) -> tuple[_Aliases, _Addresses]:
    aliases: _Aliases = {}
    addresses: _Addresses = {}
    for _ in range(count):
        owner, at = _read_name(message, at)
        kind, record_class, ttl_s, length = _RECORD.unpack_from(message, at)
        at += _RECORD.size
        value = message[at : at + length]
        if len(value) != length:
            raise NotTheAnswer("the message ends too early")
        if (kind, record_class) == (_CNAME, _IN):
            aliases.setdefault(owner, (_read_name(message, at)[0], ttl_s))
        elif (kind, record_class, length) == (_A, _IN, 4):
            addresses.setdefault(owner, []).append((IPv4Address(value), ttl_s))
        at += length
    return aliases, addresses


def _follow(name: str, aliases: _Aliases, addresses: _Addresses) -> Answer:
    """Return the addresses of `name` or of the name that it is an alias of. Records of other names are ignored."""
    ttls: list[int] = []
    for _ in range(_ALIASES_LIMIT):
        if found := addresses.get(name):
            found = found[:ADDRESSES_LIMIT]
            return Answer(tuple(address for address, _ in found), min([*ttls, *(ttl for _, ttl in found)]))
        if name not in aliases:
            break
        name, ttl_s = aliases[name]
        ttls.append(ttl_s)
    return Answer((), 0)


def _read_name(message: bytes, at: int) -> tuple[str, int]:
    """Return the name at `at` in lower case, and where the message goes on after it."""
    labels: list[bytes] = []
    length, end, earliest = 0, -1, at
    while True:
        size = message[at]
        if size & 0xC0 == 0xC0:
            target = (size & 0x3F) << 8 | message[at + 1]
            # Pointers lead backwards only, so that no chain of them is endless.
            if target >= earliest:
                raise NotTheAnswer("a name points to itself")
            end = at + 2 if end < 0 else end
            at = earliest = target
            continue
        if size & 0xC0:
            raise NotTheAnswer("a label has an unknown type")
        at += 1
        if size == 0:
            return b".".join(labels).decode("latin-1").lower(), at if end < 0 else end
        label = message[at : at + size]
        length += size + 1
        if len(label) != size or length > _NAME_LIMIT:
            raise NotTheAnswer("a name is too long")
        labels.append(label)
        at += size
