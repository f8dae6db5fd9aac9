"""What a guest says of its ports and programs is possible, or it is an error of ours."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
from aiohttp import web

from wrenn.base.errors import AgentFailure, InvalidState, Unavailable
from wrenn.base.secrets import Secret
from wrenn.guest import GuestConnection, Inspector, Listener, inspection
from wrenn.guest.values import json_object

LISTENER: dict[str, Any] = {"port": 8000, "address": "::", "pid": 7, "name": "python3"}
PROCESS: dict[str, Any] = {
    "pid": 7, "ppid": 1, "user": "root", "state": "S", "command": "python3 -m x", "cpu_ms": 10, "memory_bytes": 4096,
    "threads": 1,
}  # fmt: skip


@asynccontextmanager
async def served(
    answer: Callable[[web.BaseRequest], Awaitable[web.StreamResponse]],
) -> AsyncGenerator[GuestConnection]:
    """A connection to a guest that answers everything in this way."""
    server = web.ServerRunner(web.Server(answer))
    await server.setup()
    await web.TCPSite(server, "127.0.0.1", 0).start()
    host, port = server.addresses[0][:2]
    guest = GuestConnection("127.0.0.1", Secret("token"))
    guest.base_url = f"http://{host}:{port}"
    try:
        yield guest
    finally:
        await guest.close()
        await server.cleanup()


@asynccontextmanager
async def guest_that_says(body: bytes, *, status: int = 200) -> AsyncGenerator[GuestConnection]:
    """A connection to a guest that answers everything with this."""

    async def answer(_request: web.BaseRequest) -> web.Response:
        return web.Response(body=body, status=status)

    async with served(answer) as guest:
        yield guest


async def test_possible_answers_are_read_and_texts_are_made_safe():
    several = [
        LISTENER,
        {"port": 53, "address": "not one", "name": "a\x1b[1m\ud800"},
        {"port": 49983, "address": "::"},
    ]
    async with guest_that_says(json.dumps({"listeners": several}).encode()) as guest:
        assert await Inspector().listeners(guest) == [
            Listener(8000, "::", 7, "python3"),
            Listener(53, "", 0, "a [1m "),
        ]
    body = {
        "at_ms": 5,
        "processes": [PROCESS, PROCESS, {**PROCESS, "pid": 8, "command": "x" * 9999, "state": "ZZ"}],
    }
    async with guest_that_says(json.dumps(body).encode()) as guest:
        found = await Inspector().processes(guest)
    assert found.at_ms == 5
    assert [(p.pid, len(p.command), p.state) for p in found.processes] == [(7, 12, "S"), (8, 500, "Z")]


@pytest.mark.parametrize(
    "said",
    [
        b"", b"[]", b"{", b"[" * 100_000, b'{"listeners": {}}', b'{"listeners": [1]}', b'{"listeners": [{}]}',
        *(
            json.dumps({"listeners": [{**LISTENER, **wrong}]}).encode()
            for wrong in ({"port": -1}, {"port": 65_536}, {"port": True}, {"port": "80"}, {"pid": 2**40}, {"port": 1.5})
        ),
        json.dumps({"listeners": [LISTENER] * 257}).encode(),
    ],
)  # fmt: skip
async def test_impossible_ports_are_an_error(said: bytes):
    async with guest_that_says(said) as guest:
        with pytest.raises(AgentFailure):
            await Inspector().listeners(guest)


@pytest.mark.parametrize(
    "said",
    [
        {}, {"at_ms": -1, "processes": []}, {"at_ms": 1, "processes": [PROCESS] * 1025},
        *({"at_ms": 1, "processes": [{**PROCESS, **wrong}]} for wrong in ({"cpu_ms": 2**60}, {"memory_bytes": None}, {"threads": -1})),
    ],
)  # fmt: skip
async def test_impossible_programs_are_an_error(said: dict[str, Any]):
    async with guest_that_says(json.dumps(said).encode()) as guest:
        with pytest.raises(AgentFailure):
            await Inspector().processes(guest)


async def test_an_answer_that_is_too_long_is_not_read_to_its_end():
    async with guest_that_says(b" " * (5 * 2**20)) as guest:
        with pytest.raises(AgentFailure):
            await Inspector().listeners(guest)


async def test_a_guest_agent_of_an_older_release_says_so():
    async with guest_that_says(b"{}", status=404) as guest:
        with pytest.raises(InvalidState, match="older release"):
            await Inspector().listeners(guest)
    async with guest_that_says(b"{}", status=302) as guest:
        with pytest.raises(AgentFailure, match="302"):
            await Inspector().listeners(guest)


async def test_a_guest_that_is_gone_is_unavailable(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(inspection, "_TIMEOUT_S", 0.2)
    async with guest_that_says(b"") as guest:
        guest.base_url = "http://127.0.0.1:1"
        with pytest.raises(Unavailable):
            await Inspector().listeners(guest)


@pytest.mark.parametrize(
    "said",
    [
        b'{"at_ms": 1, "processes": [' + b"{}," * 600_000 + b"{}]}",
        b'{"at_ms": 1, "processes": [' + b"0," * 900_000 + b"0]}",
        b'{"at_ms": 1, "processes": [' + (b"9" * 4300 + b",") * 400 + b"0]}",
    ],
)
async def test_an_answer_that_would_take_long_to_parse_is_refused_soon(said: bytes):
    assert len(said) < 2 * 2**20, "its size is not the reason"
    async with guest_that_says(said) as guest:
        with pytest.raises(AgentFailure):
            await Inspector().processes(guest)
    started = time.thread_time()
    with pytest.raises(AgentFailure):
        json_object(said)
    assert time.thread_time() - started < 0.02


async def test_ports_have_a_short_answer():
    async with guest_that_says(json.dumps({"listeners": [], "more": " " * 70_000}).encode()) as guest:
        with pytest.raises(AgentFailure):
            await Inspector().listeners(guest)


async def test_a_guest_is_read_once_at_a_time_and_a_slow_one_holds_up_no_other(
    monkeypatch: pytest.MonkeyPatch,
):
    monkeypatch.setattr(inspection, "_TIMEOUT_S", 0.5)
    under_way = most = 0
    release = asyncio.Event()

    async def answer(_request: web.BaseRequest) -> web.Response:
        nonlocal under_way, most
        under_way += 1
        most = max(most, under_way)
        await release.wait()
        under_way -= 1
        return web.Response(body=b'{"listeners": []}')

    inspector = Inspector()
    async with served(answer) as slow, guest_that_says(b'{"listeners": []}') as other:
        waiting = [asyncio.create_task(inspector.listeners(slow)) for _ in range(5)]
        assert await inspector.listeners(other) == []
        outcomes = await asyncio.gather(*waiting, return_exceptions=True)
        release.set()
    assert most == 1
    assert {type(outcome) for outcome in outcomes} == {Unavailable}
