"""Processes followed over WebSockets: frames as documented, exact bytes, refusals, and who kills what when somebody leaves."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import httpx2
import pytest
import pytest_asyncio
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

from wrenn.base.secrets import Secret
from wrenn.base.units import MIB

from .conftest import DEADLINE_S, Platform

Json = dict[str, Any]

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest.fixture
def platform(team_platform: Platform) -> Platform:
    """The module's, with a team of the test's own."""
    return team_platform


@pytest_asyncio.fixture(loop_scope="module")
async def path(platform: Platform) -> str:
    return await platform.create()


@asynccontextmanager
async def socket(
    platform: Platform, path: str, *, key: Secret | None = None
) -> AsyncGenerator[ClientConnection]:
    """A WebSocket of the API, with the key of the team unless another is given."""
    headers = {"X-API-Key": (key or platform.key).reveal()}
    url = platform.url.replace("http:", "ws:") + path
    # Who leaves while much is on the way does not wait for it to come.
    async with connect(
        url, additional_headers=headers, proxy=None, open_timeout=DEADLINE_S, close_timeout=0.2
    ) as opened:
        yield opened


async def send(opened: ClientConnection, **frame: object) -> None:
    await opened.send(json.dumps(frame))


async def frame(opened: ClientConnection) -> Json | bytes:
    async with asyncio.timeout(DEADLINE_S):
        message = await opened.recv()
    return message if isinstance(message, bytes) else json.loads(message)


async def frames(opened: ClientConnection) -> list[Any]:
    """All until the server closes."""
    found: list[Any] = []
    async with asyncio.timeout(DEADLINE_S):
        try:
            while True:
                found.append(await frame(opened))
        except ConnectionClosed:
            return found


async def run(platform: Platform, path: str, **start: object) -> list[Any]:
    """The frames of a program from its start to the end."""
    async with socket(platform, f"{path}/exec/stream") as opened:
        await send(opened, type="start", **start)
        return await frames(opened)


def said(found: list[Any], kind: str) -> str:
    return "".join(f["data"] for f in found if f["type"] == kind)


async def wait_gone(api: httpx2.AsyncClient, path: str, pid: int) -> None:
    """Wait until the sandbox has no such process."""
    script = f"while kill -0 {pid} 2>/dev/null; do sleep 0.02; done"
    body = {"cmd": "sh", "args": ["-c", script], "timeout_sec": int(DEADLINE_S)}
    assert (await api.post(f"{path}/exec", json=body)).json()["exit_code"] == 0


async def test_a_program_is_followed_from_its_start_to_its_exit(platform: Platform, path: str):
    script = "echo out; echo err >&2; exit 7"
    found = await run(platform, path, cmd="/bin/sh", args=["-c", script])
    assert found[0]["type"] == "start"
    assert found[0]["pid"] > 0
    assert (said(found, "stdout"), said(found, "stderr")) == ("out\n", "err\n")
    assert found[-1] == {"type": "exit", "exit_code": 7}


async def test_it_is_served_under_the_name_of_capsules_too(platform: Platform, path: str):
    capsule = path.replace("/sandboxes/", "/capsules/")
    assert (await run(platform, capsule, cmd="true"))[-1] == {"type": "exit", "exit_code": 0}


async def test_variables_folder_and_user_arrive(platform: Platform, path: str):
    script = "echo $A; pwd; echo $USER"
    start = {"cmd": "/bin/sh", "args": ["-c", script], "envs": {"A": "1"}, "cwd": "/", "user": "user"}
    lines = said(await run(platform, path, **start), "stdout").splitlines()
    assert (lines[0], lines[2]) == ("1", "user")
    assert lines[1] == "/"


SPLIT = "printf '\\303'; sleep 0.2; printf '\\244\\n'; printf '\\377' >&2"


async def test_a_character_in_two_chunks_is_not_damaged(platform: Platform, path: str):
    found = await run(platform, path, cmd="/bin/sh", args=["-c", SPLIT])
    assert (said(found, "stdout"), said(found, "stderr")) == ("ä\n", "\ufffd")


EVERY_BYTE = (
    "import sys; sys.stdout.buffer.write(bytes(range(256)) * 4096); sys.stderr.buffer.write(b'\\xff\\xfe')"
)


@pytest.mark.parametrize("encoding", ["base64", "binary"])
async def test_all_bytes_come_as_they_were_written(platform: Platform, path: str, encoding: str):
    found = await run(platform, path, cmd="python3", args=["-c", EVERY_BYTE], encoding=encoding)
    out, err = b"", b""
    for one in found[1:-1]:
        if isinstance(one, bytes):
            kind, data = {1: "stdout", 2: "stderr"}[one[0]], one[1:]
        else:
            kind, data = one["type"], base64.b64decode(one["data"])
        out, err = (out + data, err) if kind == "stdout" else (out, err + data)
    assert out == bytes(range(256)) * 4096
    assert err == b"\xff\xfe"
    assert found[-1] == {"type": "exit", "exit_code": 0}


def as_input(encoding: str, data: bytes) -> str | bytes:
    """A client's message with input for the program."""
    match encoding:
        case "binary":
            return data
        case "base64":
            return json.dumps({"type": "stdin", "data": base64.b64encode(data).decode()})
        case _:
            return json.dumps({"type": "stdin", "data": data.decode()})


def as_output(message: Json | bytes) -> bytes:
    """What a server's message shows of standard output."""
    if isinstance(message, bytes):
        return message[1:] if message[0] == 1 else b""
    return message["data"].encode() if message["type"] == "stdout" else b""


@pytest.mark.parametrize("encoding", ["text", "base64", "binary"])
async def test_input_arrives_in_its_order_and_ends(platform: Platform, path: str, encoding: str):
    async with socket(platform, f"{path}/exec/stream") as opened:
        await send(opened, type="start", cmd="cat", stdin=True, encoding=encoding)
        for number in range(200):
            await opened.send(as_input(encoding, f"{number}\n".encode()))
        await send(opened, type="close_stdin")
        found = await frames(opened)
    shown = [as_output(message) for message in found]
    out = b"".join(base64.b64decode(piece) for piece in shown) if encoding == "base64" else b"".join(shown)
    assert out.decode().split() == [str(n) for n in range(200)]
    assert found[-1] == {"type": "exit", "exit_code": 0}


async def test_without_stdin_the_input_is_empty(platform: Platform, path: str):
    assert (await run(platform, path, cmd="cat"))[-1] == {"type": "exit", "exit_code": 0}


async def test_input_for_a_program_that_does_not_read_it_is_dropped(platform: Platform, path: str):
    async with socket(platform, f"{path}/exec/stream") as opened:
        await send(
            opened, type="start", cmd="/bin/sh", args=["-c", "exec <&-; echo closed; sleep 0.2"], stdin=True
        )
        while (await frame(opened)) != {"type": "stdout", "data": "closed\n"}:
            pass
        for _ in range(8):
            await send(opened, type="stdin", data="x" * 500_000)
        assert (await frames(opened))[-1] == {"type": "exit", "exit_code": 0}


async def test_a_signal_reaches_the_program(platform: Platform, path: str):
    for name in ["SIGINT", "SIGHUP", "SIGQUIT", "SIGUSR1", "SIGUSR2", "SIGTERM"]:
        await signal_reaches_the_program(platform, path, name)


async def signal_reaches_the_program(platform: Platform, path: str, name: str) -> None:
    script = f"trap 'echo got; exit 3' {name[3:]}; echo ready; while :; do sleep 0.05; done"
    async with socket(platform, f"{path}/exec/stream") as opened:
        await send(opened, type="start", cmd="/bin/sh", args=["-c", script])
        while (await frame(opened)) != {"type": "stdout", "data": "ready\n"}:
            pass
        await send(opened, type="signal", signal=name)
        found = await frames(opened)
    assert said(found, "stdout").endswith("got\n")
    assert found[-1] == {"type": "exit", "exit_code": 3}


async def test_a_program_that_does_not_exist_ends_as_in_a_shell(platform: Platform, path: str):
    found = await run(platform, path, cmd="no-such-program")
    assert "not found" in said(found, "stderr")
    assert found[-1] == {"type": "exit", "exit_code": 127}


async def test_a_program_that_takes_too_long_is_killed_with_an_error(platform: Platform, path: str):
    found = await run(platform, path, cmd="sleep", args=["60"], timeout_sec=1)
    assert (found[-1]["type"], found[-1]["code"]) == ("error", "deadline_exceeded")
    await wait_gone(platform.api, path, found[0]["pid"])


@pytest.mark.parametrize("policy", ["kill", "keep"])
async def test_a_client_that_disconnects_kills_the_program_or_leaves_it_running(
    platform: Platform, path: str, policy: str
):
    for leaves_by in ["stop", "close"]:
        await leave(platform, path, leaves_by, policy)


async def leave(platform: Platform, path: str, leaves_by: str, policy: str) -> None:
    async with socket(platform, f"{path}/exec/stream") as opened:
        await send(opened, type="start", cmd="sleep", args=["60"], on_disconnect=policy, tag="sleeper")
        started = await frame(opened)
        assert isinstance(started, dict)
        if leaves_by == "stop":
            await send(opened, type="stop")
            assert await frames(opened) == []
    if policy == "kill":
        await wait_gone(platform.api, path, started["pid"])
        return
    listed = (await platform.api.get(f"{path}/processes")).json()["processes"]
    assert [(p["pid"], p["tag"]) for p in listed] == [(started["pid"], "sleeper")]
    assert (await platform.api.delete(f"{path}/processes/sleeper")).status_code == 204


async def test_attaching_replays_buffered_output(platform: Platform, path: str):
    script = "echo before; while [ ! -e go ]; do sleep 0.02; done; echo after"
    body = {"cmd": "/bin/sh", "args": ["-c", script], "background": True, "tag": "job"}
    started = (await platform.api.post(f"{path}/exec", json=body)).json()
    async with socket(platform, f"{path}/processes/job/stream?replay=true") as first:
        begun = await frame(first)
        assert isinstance(begun, dict)
        assert (begun["pid"], begun.get("replayed", 0)) in [(started["pid"], 0), (started["pid"], 7)]
        assert await frame(first) == {"type": "stdout", "data": "before\n"}
        async with socket(platform, f"{path}/processes/{started['pid']}/stream") as second:
            assert await frame(second) == {"type": "start", "pid": started["pid"]}
            (_root(platform, path) / "root/go").touch()
            after = [{"type": "stdout", "data": "after\n"}, {"type": "exit", "exit_code": 0}]
            assert await frames(first) == after
            assert await frames(second) == after


def _root(platform: Platform, path: str) -> Path:
    return platform.host.root_of(path.rpartition("/")[2])


async def test_output_beyond_the_buffer_is_reported_as_missed(platform: Platform, path: str):
    code = "print('x' * 3_000_000, flush=True); import time; time.sleep(60)"
    body = {"cmd": "python3", "args": ["-c", code], "background": True, "tag": "job"}
    await platform.api.post(f"{path}/exec", json=body)
    async with asyncio.timeout(DEADLINE_S):
        while True:
            async with socket(platform, f"{path}/processes/job/stream?replay=true") as opened:
                started = await frame(opened)
                assert isinstance(started, dict)
                if started.get("missed", 0) + started.get("replayed", 0) == 3_000_001:
                    break
    assert 900_000 < started["replayed"] <= MIB


async def test_to_leave_a_process_that_one_only_follows_does_not_end_it(platform: Platform, path: str):
    body = {"cmd": "sleep", "args": ["60"], "background": True, "tag": "job"}
    await platform.api.post(f"{path}/exec", json=body)
    async with socket(platform, f"{path}/processes/job/stream") as opened:
        await frame(opened)
    assert (await platform.api.get(f"{path}/processes")).json()["processes"]


# --- terminals


async def terminal_until(opened: ClientConnection, text: str) -> str:
    """What the terminal shows, until this text is in it."""
    shown = ""
    while text not in shown:
        found = await frame(opened)
        assert isinstance(found, dict)
        assert found["type"] == "output", (found, shown)
        shown += base64.b64decode(found["data"]).decode()
    return shown


async def typed(opened: ClientConnection, text: str) -> None:
    await send(opened, type="input", data=base64.b64encode(text.encode()).decode())


async def test_a_terminal_has_its_size_its_input_and_its_exit_code(platform: Platform, path: str):
    async with socket(platform, f"{path}/pty") as opened:
        await send(opened, type="start", cmd="/bin/sh", cols=90, rows=30)
        started = await frame(opened)
        assert isinstance(started, dict)
        assert started["type"] == "started"
        assert started["tag"].startswith("pty-")
        await typed(opened, "stty size; echo term=$TERM\n")
        shown = await terminal_until(opened, "term=xterm")
        assert "30 90" in shown
        await send(opened, type="resize", cols=100, rows=40)
        await typed(opened, "stty size\n")
        await terminal_until(opened, "40 100")
        await typed(opened, "exit 5\n")
        assert (await frames(opened))[-1] == {"type": "exit", "exit_code": 5}


async def test_a_key_interrupts_what_runs_in_a_terminal(platform: Platform, path: str):
    async with socket(platform, f"{path}/pty") as opened:
        await send(opened, type="start", cmd="/bin/sh")
        await frame(opened)
        # `exec`: a shell that is interrupted while it starts its child loses the signal (dash 0.5.12).
        await typed(opened, "sh -c \"echo rea''dy; exec sleep 60\"\n")
        await terminal_until(opened, "ready")
        await typed(opened, "\x03")

        async def type_again() -> None:
            # A shell that is interrupted drops what was typed before it reads again.
            while True:
                await typed(opened, "echo st''ill here\n")
                await asyncio.sleep(1)

        typing = asyncio.create_task(type_again())
        await terminal_until(opened, "still here")
        typing.cancel()
        await send(opened, type="kill")
        killed = {"signal": 9, "signal_name": "SIGKILL"}
        assert (await frames(opened))[-1] == {"type": "exit", "exit_code": 137, **killed}


async def test_a_terminal_outlives_its_viewers_and_has_several(platform: Platform, path: str):
    async with socket(platform, f"{path}/pty") as opened:
        await send(opened, type="start", cmd="/bin/sh", tag="mine", envs={"PS1": ""})
        assert (await frame(opened))["tag"] == "mine"  # type: ignore[call-overload]
        await typed(opened, "echo fir''st\n")
        await terminal_until(opened, "first")
    async with socket(platform, f"{path}/pty") as one, socket(platform, f"{path}/pty") as two:
        await send(one, type="connect", tag="mine", replay=True)
        await terminal_until(one, "first")
        await send(two, type="connect", tag="mine")
        await typed(two, "echo sec''ond\n")
        assert "first" not in await terminal_until(two, "second")
        await terminal_until(one, "second")
        await typed(one, "exit\n")
        assert (await frames(one))[-1] == (await frames(two))[-1] == {"type": "exit", "exit_code": 0}


async def test_a_terminal_can_end_with_its_viewer(platform: Platform, path: str):
    async with socket(platform, f"{path}/pty") as opened:
        await send(opened, type="start", cmd="/bin/sh", on_disconnect="kill")
        started = await frame(opened)
        assert isinstance(started, dict)
    await wait_gone(platform.api, path, started["pid"])


async def test_a_terminal_can_be_binary(platform: Platform, path: str):
    async with socket(platform, f"{path}/pty") as opened:
        await send(opened, type="start", cmd="/bin/sh", encoding="binary")
        await frame(opened)
        await opened.send(b"printf '\\377'; exit\n")
        found = await frames(opened)
    shown = b"".join(f[1:] for f in found if isinstance(f, bytes))
    assert b"\xff" in shown
    assert {f[0] for f in found if isinstance(f, bytes)} == {3}


# --- refusals


async def refusal(platform: Platform, path: str, *, key: Secret | None = None) -> tuple[int, str]:
    """Status and code of the answer to a handshake."""
    with pytest.raises(InvalidStatus) as refused:
        async with socket(platform, path, key=key):
            pass
    response = refused.value.response
    assert response.headers["x-request-id"]
    return response.status_code, json.loads(response.body or b"")["error"]["code"]


ENDPOINTS = ["exec/stream", "pty", "processes/1/stream"]


async def test_handshakes_are_refused_by_ordinary_answers(platform: Platform, path: str):
    other = await platform.other_team("bob")
    for endpoint in ENDPOINTS:
        assert await refusal(platform, f"/v1/sandboxes/no-id/{endpoint}") == (400, "invalid_request")
        assert await refusal(platform, f"{path}/{endpoint}", key=Secret("wrn_x")) == (401, "unauthorized")
        unknown = Secret("wrn_" + "0" * 32)
        assert await refusal(platform, f"{path}/{endpoint}", key=unknown) == (401, "unauthorized")
        assert await refusal(platform, f"{path}/{endpoint}", key=other) == (404, "not_found")
    assert (await platform.api.post(f"{path}/pause")).status_code == 200
    for endpoint in ENDPOINTS:
        assert await refusal(platform, f"{path}/{endpoint}") == (409, "invalid_state")


async def test_a_process_that_does_not_exist_is_not_found(platform: Platform, path: str):
    for selector in ["no-such", "1", "9" * 30]:
        assert await refusal(platform, f"{path}/processes/{selector}/stream") == (404, "not_found")
    for query in ["encoding=utf-16", "replay=perhaps"]:
        refused = await refusal(platform, f"{path}/processes/1/stream?{query}")
        assert refused == (400, "invalid_request")


WRONG_FIRST = [
    ("exec/stream", "nonsense", "JSON"),
    ("exec/stream", "[1]", "JSON"),
    ("exec/stream", b"\x01", "text"),
    ("exec/stream", '{"type": "stop"}', "start"),
    ("exec/stream", '{"type": "start"}', "cmd"),
    ("exec/stream", '{"type": "start", "cmd": ""}', "cmd"),
    ("exec/stream", '{"type": "start", "cmd": "a\\u0000b"}', "cmd"),
    ("exec/stream", '{"type": "start", "cmd": "x", "encoding": "utf-8"}', "encoding"),
    ("exec/stream", '{"type": "start", "cmd": "x", "on_disconnect": "hide"}', "on_disconnect"),
    ("exec/stream", '{"type": "start", "cmd": "x", "timeout_sec": -1}', "timeout_sec"),
    ("exec/stream", '{"type": "start", "cmd": "x", "tag": "12"}', "tag"),
    ("pty", '{"type": "input", "data": ""}', "start"),
    ("pty", '{"type": "start", "cols": 0}', "cols"),
    ("pty", '{"type": "connect"}', "tag"),
]


async def test_a_wrong_first_message_ends_the_stream_and_starts_nothing(
    platform: Platform, path: str, subtests: pytest.Subtests
):
    for endpoint, first, words in WRONG_FIRST:
        with subtests.test(f"{first!r}"):
            async with socket(platform, f"{path}/{endpoint}") as opened:
                await opened.send(first)
                (only,) = await frames(opened)
            assert (only["type"], only["code"]) == ("error", "invalid_request")
            assert words in only["data"]
            assert only.get("fatal", False) == (endpoint == "pty")
    assert (await platform.api.get(f"{path}/processes")).json() == {"processes": []}


WRONG_LATER = [
    "x",
    '{"type": "signal", "signal": "SIGX"}',
    '{"type": "stdin"}',
    '{"type": "stdin", "data": "\\ud800"}',
]


async def test_a_wrong_message_later_ends_the_stream(
    platform: Platform, path: str, subtests: pytest.Subtests
):
    for message in WRONG_LATER:
        with subtests.test(message):
            async with socket(platform, f"{path}/exec/stream") as opened:
                await send(opened, type="start", cmd="sleep", args=["60"], stdin=True)
                started = await frame(opened)
                assert isinstance(started, dict)
                await send(opened, type="unknown to this version")
                await opened.send(message)
                (only,) = await frames(opened)
            assert (only["type"], only["code"]) == ("error", "invalid_request")
            await wait_gone(platform.api, path, started["pid"])


async def test_a_message_above_the_limit_closes_the_connection(platform: Platform, path: str):
    async with socket(platform, f"{path}/exec/stream") as opened:
        await send(opened, type="start", cmd="cat", stdin=True)
        await frame(opened)
        with suppress(ConnectionClosed):
            await opened.send("x" * (17 * MIB))
        await frames(opened)
        assert opened.close_code in (1006, 1009)


# --- who calls, told in the first message


@asynccontextmanager
async def bare(platform: Platform, path: str) -> AsyncGenerator[ClientConnection]:
    """Without a header, as a browser must."""
    async with connect(platform.url.replace("http:", "ws:") + path, proxy=None) as opened:
        yield opened


async def test_a_browser_says_its_key_in_the_first_message(platform: Platform, path: str):
    async with bare(platform, f"{path}/exec/stream") as opened:
        await send(opened, type="auth", token=platform.key.reveal())
        await send(opened, type="start", cmd="echo", args=["in"])
        found = await frames(opened)
    assert said(found, "stdout") == "in\n"


async def test_a_wrong_first_message_of_a_stranger_is_refused(platform: Platform, path: str):
    other = await platform.other_team("bob")
    wrong = [
        ({"type": "start", "cmd": "id"}, "unauthorized"),
        ({"type": "auth"}, "unauthorized"),
        ({"type": "auth", "token": "x"}, "unauthorized"),
        ({"type": "auth", "token": "wrn_" + "0" * 32}, "unauthorized"),
        ({"type": "auth", "token": other.reveal()}, "not_found"),
    ]
    for endpoint in ENDPOINTS:
        for message, code in wrong:
            async with bare(platform, f"{path}/{endpoint}") as opened:
                await send(opened, **message)
                (only,) = await frames(opened)
            assert (only["type"], only["code"]) == ("error", code), message


# --- what happens around a stream


async def test_a_pause_cuts_the_stream_and_says_so(platform: Platform, path: str):
    async with socket(platform, f"{path}/exec/stream") as opened:
        await send(opened, type="start", cmd="sleep", args=["60"], tag="job")
        await frame(opened)
        assert (await platform.api.post(f"{path}/pause")).status_code == 200
        (only,) = await frames(opened)
    assert (only["type"], only["code"]) == ("error", "invalid_state")
    assert "paused" in only["data"]
    assert (await platform.api.post(f"{path}/resume")).status_code == 200


@pytest.mark.needs("keeps_memory")
async def test_a_pause_of_a_followed_program_does_not_kill_it(platform: Platform, path: str):
    async with socket(platform, f"{path}/exec/stream") as opened:
        await send(opened, type="start", cmd="sleep", args=["60"], tag="job")
        await frame(opened)
        assert (await platform.api.post(f"{path}/pause")).status_code == 200
    assert (await platform.api.post(f"{path}/resume")).status_code == 200
    listed = (await platform.api.get(f"{path}/processes")).json()["processes"]
    assert [p["tag"] for p in listed] == ["job"], "a pause kills nothing"


async def test_an_open_exec_keeps_its_sandbox_up_and_an_open_terminal_does_not(platform: Platform):
    # Long enough for a loaded machine to open both in.
    busy, forgotten = await platform.create(timeout_sec=4), await platform.create(timeout_sec=4)
    async with socket(platform, f"{busy}/exec/stream") as one, socket(platform, f"{forgotten}/pty") as two:
        await send(one, type="start", cmd="sleep", args=["60"])
        await send(two, type="start", cmd="sleep", args=["60"])
        await frame(one)
        await frame(two)
        await platform.wait_status(forgotten, "paused")
        assert (await platform.api.get(busy)).json()["status"] == "running"
        assert (await frames(two))[-1]["code"] == "invalid_state"


async def test_an_output_keeps_the_sandbox_of_a_terminal_up(platform: Platform):
    path = await platform.create(timeout_sec=3)
    async with socket(platform, f"{path}/pty") as opened:
        await send(opened, type="start", cmd="/bin/sh", args=["-c", "while :; do echo tick; sleep 0.1; done"])
        await frame(opened)
        begun = asyncio.get_running_loop().time()
        while asyncio.get_running_loop().time() < begun + 6:
            found = await frame(opened)
            assert isinstance(found, dict)
            assert found["type"] == "output", found
        assert (await platform.api.get(path)).json()["status"] == "running"


async def test_a_sandbox_with_auto_resume_is_resumed_for_a_stream(platform: Platform):
    path = await platform.create(auto_resume=True)
    assert (await platform.api.post(f"{path}/pause")).status_code == 200
    assert (await run(platform, path, cmd="true"))[-1] == {"type": "exit", "exit_code": 0}


async def test_signals_by_name_reach_background_processes(platform: Platform, path: str):
    script = "trap 'exit 0' USR1; while :; do sleep 0.02; done"
    body = {"cmd": "/bin/sh", "args": ["-c", script], "background": True, "tag": "job"}
    pid = (await platform.api.post(f"{path}/exec", json=body)).json()["pid"]
    async with socket(platform, f"{path}/processes/job/stream") as opened:
        await frame(opened)
        async with asyncio.timeout(DEADLINE_S):
            answer = await platform.api.delete(f"{path}/processes/job", params={"signal": "SIGUSR1"})
            assert answer.status_code == 204
    await wait_gone(platform.api, path, pid)
    refused = await platform.api.delete(f"{path}/processes/job", params={"signal": "SIGX"})
    assert refused.status_code == 400
    assert "SIGUSR1" in refused.json()["error"]["message"]


async def test_the_shell_of_an_open_terminal_writes_nothing_after_a_pause(platform: Platform, path: str):
    """It would write its history when its terminal is closed, also when that is because the guest ends."""
    for _ in range(8):
        async with socket(platform, f"{path}/pty") as opened:
            await send(opened, type="start", cmd="/bin/bash", args=["-i"])
            await frame(opened)
            await typed(opened, "echo ty''ped\n")
            await terminal_until(opened, "typed")
            for verb in ("pause", "resume"):
                answer = await platform.api.post(f"{path}/{verb}")
                assert answer.status_code == 200, answer.text


async def test_a_stream_says_that_its_sandbox_is_being_removed(platform: Platform):
    """Also when it notices first that the guest is gone."""
    for _ in range(12):
        path = await platform.create()
        async with socket(platform, f"{path}/exec/stream") as opened:
            await send(opened, type="start", cmd="sleep", args=["60"])
            await frame(opened)
            assert (await platform.api.delete(path)).status_code == 204
            assert (await frames(opened))[-1]["code"] == "invalid_state"
