"""What there is to decode in a guest's message is counted before it is decoded."""

from __future__ import annotations

import time

import pytest

from wrenn.base.errors import AgentFailure
from wrenn.guest.values import decode_message
from wrenn.protocol.guest import filesystem_pb as fs
from wrenn.protocol.guest import process_pb as pb
from wrenn.protocol.wire import TooManyFields, check_fields

FLOODS = {
    "empty elements": b"\n\0" * 2_000_000,
    "unknown fields": b"\xf8\x01\0" * 1_300_000,
    "arguments of one process": b"\n\x80\x80\x80\x02\n\xfa\xff\xff\x01" + b"\x12\0" * 2_097_149,
    "one entry of a map": b"\n\x80\x80\x80\x02\n\xfa\xff\xff\x01\x1a\xf5\xff\xff\x01" + b"\n\0" * 2_097_147,
}


def listed(processes: int, arguments: int) -> pb.ListResponse:
    config = pb.ProcessConfig(cmd="/bin/true", args=["x"] * arguments, envs={"A": "1", "B": "2"}, cwd="/")
    return pb.ListResponse(processes=[pb.ProcessInfo(config=config, pid=7, tag="t")] * processes)


@pytest.mark.parametrize("body", FLOODS.values(), ids=FLOODS.keys())
def test_a_flood_of_fields_is_refused_at_once(body: bytes) -> None:
    began = time.thread_time()
    with pytest.raises(AgentFailure):
        decode_message(pb.ListResponse, body, field_limit=10_000)
    assert time.thread_time() - began < 0.5, "decoding it takes more than 10 s"


def test_fields_of_nested_messages_and_of_maps_count() -> None:
    body = listed(processes=2, arguments=3).to_binary()
    # For each process: itself, its configuration, pid and tag; command, folder and arguments; two variables of three fields.
    fields = 2 * (4 + 2 + 3 + 2 * 3)
    check_fields(pb.ListResponse, body, fields)
    with pytest.raises(TooManyFields):
        check_fields(pb.ListResponse, body, fields - 1)
    assert len(decode_message(pb.ListResponse, body).processes) == 2


def test_the_longest_list_of_files_is_read() -> None:
    entry = fs.EntryInfo(
        name="a-file.txt",
        path="/srv/a-file.txt",
        size=12,
        mode=0o644,
        permissions="-rw-r--r--",
        owner="root",
        group="root",
    )
    body = fs.ListDirResponse(entries=[entry] * 20_000).to_binary()
    assert len(decode_message(fs.ListDirResponse, body, field_limit=400_000).entries) == 20_000


@pytest.mark.parametrize(
    "body", [b"\n", b"\n\5ab", b"\x0b\x0c", b"\xff" * 11, b"\n\xff\xff\xff\xff\xff\xff\xff\xff\x7f"]
)
def test_what_is_no_message_is_refused(body: bytes) -> None:
    with pytest.raises(AgentFailure):
        decode_message(pb.ListResponse, body)
