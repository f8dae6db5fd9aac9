"""How the SDK cuts a stream into events."""

from __future__ import annotations

import pytest

from wrenn.sdk._sse import Frame, Frames
from wrenn.sdk.errors import UnexpectedAnswerError

STREAM = (
    "retry: 1000\n\n"
    ": alive\n\n"
    'id: 7-1\nevent: sandbox.created\ndata: {"type":"sandbox.created","data":{"a":"ä"}}\n\n'
    "id: 7-2\nevent: x\ndata: 2\nnewer: field\n\n"
).encode()


@pytest.mark.parametrize("length", [1, 2, 7, 1000])
def test_pieces_of_any_length_give_the_same_events(length: int):
    frames = Frames()
    found = [
        frame
        for begin in range(0, len(STREAM), length)
        for frame in frames.feed(STREAM[begin : begin + length])
    ]
    assert found == [
        Frame("7-1", "sandbox.created", '{"type":"sandbox.created","data":{"a":"ä"}}'),
        Frame("7-2", "x", "2"),
    ]


def test_what_never_ends_is_no_event():
    frames = Frames()

    def feed_for_ever() -> None:
        while not list(frames.feed(b"x" * 8192)):
            pass

    with pytest.raises(UnexpectedAnswerError):
        feed_for_ever()
