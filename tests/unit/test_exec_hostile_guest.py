"""A guest that has no time for its agent: the agent answers a command in time all the same, so nobody takes its host for dead."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, MutableMapping
from contextlib import asynccontextmanager
from typing import Any

import pytest

from tests.unit.test_guest_hostile import STARTED, STREAM, Answer, followed, hostile_guest, says
from wrenn.agent.rpc import execs
from wrenn.agent.rpc.guest_streams import GuestStream
from wrenn.base.errors import DeadlineExceeded, NotFound, Unavailable
from wrenn.base.ids import SandboxId
from wrenn.control.hosts.execs import EXEC_MARGIN_S
from wrenn.guest import CommandLine, GuestConnection, GuestPorts, Processes, commands
from wrenn.guest import connect as guest_connect
from wrenn.protocol.host.streams import (
    MESSAGE_HEAD,
    Kind,
    StartProcess,
    open_message,
    parse_failure,
)

DEADLINE_S = 10.0


class Stream:
    """A caller's stream to the guest, as the registry opens it."""

    def __init__(self, guest: GuestConnection) -> None:
        self.processes = Processes(guest)

    @property
    def ports(self) -> GuestPorts:
        raise AssertionError("a command needs no port")

    def mark_active(self) -> None: ...

    def mark_open(self, *, is_finite: bool) -> None: ...

    @asynccontextmanager
    async def open_stream(
        self, sandbox_id: SandboxId, /, *, counts_as_active: bool = True
    ) -> AsyncGenerator[GuestStream]:
        del sandbox_id, counts_as_active
        yield self


async def answered(guest: GuestConnection, timeout_s: float) -> tuple[Kind, bytes]:
    """Run a command through the agent's handler; returns its one message."""
    sandbox_id = SandboxId.new()
    opening = open_message(str(sandbox_id), StartProcess(cmd="true", timeout_ms=round(timeout_s * 1000)))[1:]
    body = bytearray()

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": opening}

    async def send(message: MutableMapping[str, Any]) -> None:
        body.extend(message.get("body", b""))

    async with asyncio.timeout(DEADLINE_S):
        scope = {"type": "http", "method": "POST", "path": f"/sandboxes/{sandbox_id}/exec"}
        await execs.Execs(Stream(guest))(scope, receive, send)
    (length,) = MESSAGE_HEAD.unpack_from(body)
    assert len(body) == MESSAGE_HEAD.size + length
    return Kind(body[MESSAGE_HEAD.size]), bytes(body[MESSAGE_HEAD.size + 1 :])


async def silent(reader: asyncio.StreamReader, _writer: asyncio.StreamWriter) -> None:
    await reader.read()


async def started_then_silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Answers the start, and after it nothing: the call that kills gets no answer either."""
    # The call that kills does not name the program.
    await reader.readuntil(b"true")
    writer.write(STREAM + STARTED)
    await writer.drain()
    await reader.read()


@pytest.mark.parametrize("answer", [silent, started_then_silent])
async def test_a_command_in_a_guest_that_does_not_answer_ends_with_its_time_limit(
    answer: Answer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(execs, "_GRACE_S", 0.1)
    monkeypatch.setattr(commands, "_KILL_TIMEOUT_S", 0.1)
    async with hostile_guest(answer, monkeypatch) as guest:
        kind, payload = await answered(guest, timeout_s=0.2)
    assert kind is Kind.FAILED
    error = parse_failure(payload)
    assert isinstance(error, DeadlineExceeded), error
    assert "did not end within 0.2 s" in error.message


def test_a_control_plane_waits_longer_than_the_agent() -> None:
    most_s = execs._GRACE_S + commands._KILL_TIMEOUT_S  # pyright: ignore[reportPrivateUsage]
    assert most_s + 4 < EXEC_MARGIN_S, "and the machine of either may be busy"


async def test_a_guest_that_does_not_know_the_call_is_not_a_missing_program(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    head = b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n"
    async with hostile_guest(says(head), monkeypatch) as guest:
        kind, payload = await answered(guest, timeout_s=5)
    assert kind is Kind.FAILED
    assert not isinstance(parse_failure(payload), NotFound | DeadlineExceeded)


async def test_a_stream_that_a_guest_does_not_begin_to_answer_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guest_connect, "_HEADERS_TIMEOUT_S", 0.2)
    async with hostile_guest(silent, monkeypatch) as guest, asyncio.timeout(DEADLINE_S):
        with pytest.raises(Unavailable):
            await followed(guest)


async def test_a_process_in_a_guest_that_does_not_answer_is_not_waited_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(commands, "_KILL_TIMEOUT_S", 0.1)
    async with hostile_guest(started_then_silent, monkeypatch) as guest:
        async with Processes(guest).start(CommandLine("true")) as process:
            async for _ in process.events():
                break
            async with asyncio.timeout(5):
                await process.kill_quietly()
