"""The end of a stream of the guest agent that breaks off."""

from __future__ import annotations

import asyncio
import json
import struct
from collections.abc import MutableMapping
from typing import Any

import pytest

from wrenn.control.proxy.broken_streams import StreamEnd
from wrenn.relay import Head, IncompleteResponse

_FRAMES = b"".join(struct.pack(">BI", 0, size) + b"x" * size for size in (3, 0, 70_000, 1))
_STREAM = Head(200, [(b"content-type", b"application/connect+json")])


async def _broken(
    pieces: list[bytes], *, head: Head = _STREAM, headers: list[tuple[bytes, bytes]] | None = None
) -> bytes:
    """What the client gets of a response that breaks off after these pieces."""
    sent: list[MutableMapping[str, Any]] = []

    async def send(message: MutableMapping[str, Any]) -> None:
        sent.append(message)

    behind = [(b"x-forwarded-for", b"192.0.2.1")]
    end = StreamEnd({"headers": behind if headers is None else headers}, send)
    end.begin(head)
    for piece in pieces:
        await end.send({"type": "http.response.body", "body": piece, "more_body": True})
    await end.finish(IncompleteResponse("it broke off"))
    assert not sent[-1].get("more_body")
    return b"".join(message["body"] for message in sent)


@pytest.mark.parametrize("size", [1, 4, 5, 8, 1000, 10**6])
async def test_a_stream_ends_with_an_error_after_a_whole_message(size: int) -> None:
    async with asyncio.timeout(10):
        got = await _broken([_FRAMES[at : at + size] for at in range(0, len(_FRAMES), size)])
    assert got.startswith(_FRAMES)
    flags, length = struct.unpack(">BI", got[len(_FRAMES) : len(_FRAMES) + 5])
    assert (flags, length) == (2, len(got) - len(_FRAMES) - 5)
    assert json.loads(got[len(_FRAMES) + 5 :])["error"]["code"] == "unavailable"


@pytest.mark.parametrize("missing", [1, 2, 5, 70_000])
async def test_one_that_breaks_off_in_a_message_is_cut(missing: int) -> None:
    with pytest.raises(IncompleteResponse):
        await _broken([_FRAMES[:-missing]])


async def test_a_client_without_a_proxy_sees_that_its_connection_is_cut() -> None:
    with pytest.raises(IncompleteResponse):
        await _broken([_FRAMES], headers=[])


async def test_other_responses_are_cut() -> None:
    for head in (Head(200, [(b"content-type", b"application/json")]), Head(404, _STREAM.headers)):
        with pytest.raises(IncompleteResponse):
            await _broken([_FRAMES], head=head)


async def test_what_has_ended_is_not_ended_again() -> None:
    with pytest.raises(IncompleteResponse):
        await _broken([_FRAMES + struct.pack(">BI", 2, 2) + b"{}"])
