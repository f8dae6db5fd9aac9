"""Answers of name servers: what is read from them, and what hostile ones cannot do."""

from __future__ import annotations

import contextlib
import random
import struct
import time
from ipaddress import IPv4Address

import pytest

from wrenn.network.dns_messages import (
    ADDRESSES_LIMIT,
    Answer,
    NoAnswer,
    NotTheAnswer,
    parse_answer,
    question,
)

NAME = "www.example.com"
ID = 4711
_POINTER = b"\xc0\x0c"
"""To the name of the question."""


def name_bytes(name: str) -> bytes:
    return b"".join(bytes([len(label)]) + label.encode() for label in name.split(".")) + b"\0"


def address_record(address: str, *, owner: bytes = _POINTER, ttl: int = 60) -> bytes:
    return owner + struct.pack(">HHIH", 1, 1, ttl, 4) + IPv4Address(address).packed


def alias_record(target: bytes, *, owner: bytes = _POINTER, ttl: int = 60) -> bytes:
    return owner + struct.pack(">HHIH", 5, 1, ttl, len(target)) + target


def answer(*records: bytes, flags: int = 0x8180, message_id: int = ID, count: int | None = None) -> bytes:
    asked = question(message_id, NAME)[12:]
    return (
        struct.pack(">HHHHHH", message_id, flags, 1, len(records) if count is None else count, 0, 0)
        + asked
        + b"".join(records)
    )


def parse(message: bytes) -> Answer:
    return parse_answer(message, ID, NAME)


def test_addresses_and_the_shortest_time_are_read():
    found = parse(answer(address_record("44.0.0.1"), address_record("44.0.0.2", ttl=7)))
    assert found == Answer((IPv4Address("44.0.0.1"), IPv4Address("44.0.0.2")), 7)


def test_aliases_are_followed_and_records_of_other_names_are_not():
    real = name_bytes("cdn.example.net")
    found = parse(
        answer(
            address_record("45.0.0.1", owner=name_bytes("other.example.net")),
            alias_record(real, ttl=5),
            address_record("44.0.0.3", owner=real, ttl=9),
        )
    )
    assert found == Answer((IPv4Address("44.0.0.3"),), 5)
    assert parse(answer(address_record("45.0.0.1", owner=name_bytes("other.example.net")))).addresses == ()


def test_an_endless_chain_of_aliases_ends():
    assert parse(answer(alias_record(_POINTER))).addresses == ()


def test_a_name_without_addresses_and_one_that_does_not_exist_are_answers():
    assert parse(answer()) == Answer((), 0)
    assert parse(answer(flags=0x8183)) == Answer((), 0)
    assert parse(answer(flags=0x8380)).is_truncated
    with pytest.raises(NoAnswer):
        parse(answer(flags=0x8182))


def test_no_more_addresses_are_taken_than_the_limit():
    records = [address_record(f"44.0.1.{number}") for number in range(60)]
    assert len(parse(answer(*records)).addresses) == ADDRESSES_LIMIT


@pytest.mark.parametrize(
    "message",
    [
        b"",
        b"\0" * 12,
        question(ID, NAME),
        answer(address_record("44.0.0.1"), message_id=ID + 1),
        answer(address_record("44.0.0.1"), flags=0x9180),
        answer(address_record("44.0.0.1")).replace(b"www", b"ftp"),
        answer(address_record("44.0.0.1"))[:-1],
        answer(address_record("44.0.0.1"), count=2),
        answer(b"\xc0\xff" + address_record("44.0.0.1")[2:]),
        answer(b"\x80\x01" + address_record("44.0.0.1")[2:]),
        answer(alias_record(b"\x3f" + b"a" * 5)),
        answer(address_record("44.0.0.1", owner=name_bytes(".".join(["a" * 60] * 5)))),
    ],
)
def test_forged_and_malformed_messages_are_no_answers(message: bytes):
    with pytest.raises(NotTheAnswer):
        parse(message)


def test_pointers_lead_backwards_only():
    asked = answer()
    for target in (len(asked), len(asked) + 1, 0x3FFF):
        with pytest.raises(NotTheAnswer):
            parse(answer(address_record("44.0.0.1", owner=struct.pack(">H", 0xC000 | target))))


def test_arbitrary_bytes_are_refused_quickly():
    source = random.Random(15)
    good = answer(alias_record(name_bytes("cdn.example.net")), address_record("44.0.0.1"))
    began = time.monotonic()
    for _ in range(3000):
        changed = bytearray(good)
        for _ in range(source.randrange(1, 8)):
            changed[source.randrange(len(changed))] = source.randrange(256)
        with contextlib.suppress(NotTheAnswer, NoAnswer):
            parse(bytes(changed[: source.randrange(len(changed) + 1)]))
    assert time.monotonic() - began < 10
