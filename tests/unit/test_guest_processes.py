"""Events of a process, as they are put together from the messages of the guest."""

from __future__ import annotations

from protobuf import Oneof

from wrenn.guest.processes import Output, Started, _events  # pyright: ignore[reportPrivateUsage]
from wrenn.protocol.guest import process_pb as pb


def output(stream: str, data: bytes) -> pb.StartResponse:
    written = Oneof(stream, data)
    return pb.StartResponse(
        event=pb.ProcessEvent(event=Oneof("data", pb.ProcessEvent.DataEvent(output=written)))  # type: ignore[arg-type]
    )


def started() -> pb.StartResponse:
    return pb.StartResponse(event=pb.ProcessEvent(event=Oneof("start", pb.ProcessEvent.StartEvent(pid=7))))


def test_a_few_outputs_keep_their_order() -> None:
    batch = [
        started(),
        output("stdout", b"a"),
        output("stdout", b"b"),
        output("stderr", b"c"),
        output("stdout", b"d"),
    ]
    assert _events(batch) == [
        Started(7, 0, 0),
        Output("stdout", (b"a", b"b")),
        Output("stderr", (b"c",)),
        Output("stdout", (b"d",)),
    ]


def test_streams_that_take_turns_byte_by_byte_are_few_events() -> None:
    batch = [started(), *[output("stdout", b"a"), output("stderr", b"b")] * 300_000]
    events = _events(batch)
    assert events[0] == Started(7, 0, 0)
    assert len(events) < 8
    for stream, byte in (("stdout", b"a"), ("stderr", b"b")):
        pieces = [e.pieces for e in events if isinstance(e, Output) and e.stream == stream]
        assert b"".join(piece for each in pieces for piece in each) == byte * 300_000
