"""Processes followed through the API, beside the same straight to the guest agent: first byte, much output, keystrokes."""

from __future__ import annotations

import asyncio
import base64
import json
import os
import time
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Final

import aiohttp

from tests.performance.figures import Figure, alternating, median, percentile, timed_ms
from tests.performance.floor import straight_to_guest
from tests.vm.platform import Platform
from wrenn.base.units import MIB
from wrenn.guest import CommandLine, FollowedProcess, GuestConnection, Output, Processes

WARM_UP: Final = 10
# On a busy machine a gigabyte under emulation takes minutes.
MUCH_B: Final = int(os.environ.get("BENCH_STREAM_MIB", "1024")) * MIB
MUCH_ROUNDS: Final = 1


async def streams(platform: Platform, rounds: int) -> list[Figure]:
    """The figures of streams."""
    plain = aiohttp.ClientSession(platform.base_url, headers={"X-API-Key": platform.key})
    async with platform.client() as api, plain:
        sandbox_id = (await api.post("/v1/sandboxes", json={})).json()["id"]
        path = f"/v1/sandboxes/{sandbox_id}"
        async with straight_to_guest(platform, sandbox_id) as guest:
            figures = [
                await _first_byte(plain, path, guest, rounds),
                *await _keystrokes(plain, path, guest, rounds),
                await _much(plain, path, guest),
            ]
        await api.delete(path)
    return figures


async def _first_byte(plain: aiohttp.ClientSession, path: str, guest: GuestConnection, rounds: int) -> Figure:
    async def straight() -> None:
        async with Processes(guest).start(CommandLine("echo", ("x",))) as process:
            async for events in process.events():
                if any(isinstance(event, Output) for event in events):
                    return

    async def floor() -> float:
        return await timed_ms(straight)

    async def measured() -> float:
        begun = time.perf_counter()
        async with plain.ws_connect(f"{path}/exec/stream") as socket:
            await socket.send_json({"type": "start", "cmd": "echo", "args": ["x"]})
            while (await socket.receive_json())["type"] != "stdout":
                pass
            return (time.perf_counter() - begun) * 1000

    await alternating(floor, measured, rounds=WARM_UP)
    floors, values = await alternating(floor, measured, rounds=rounds * 5)
    more = median(values) - median(floors)
    return Figure(
        "first byte of a streaming exec, warm",
        f"{median(floors):.1f} ms (straight to envd)",
        f"{median(values):.1f} ms",
        f"+{more:.1f} ms",
        "≤ floor + 5 ms",
        more <= 5,
    )


async def _much(plain: aiohttp.ClientSession, path: str, guest: GuestConnection) -> Figure:
    program = ("-c", str(MUCH_B), "/dev/zero")

    async def straight() -> float:
        received = 0
        begun = time.perf_counter()
        async with Processes(guest).start(CommandLine("head", program)) as process:
            async for events in process.events():
                received += sum(len(p) for e in events if isinstance(e, Output) for p in e.pieces)
        assert received == MUCH_B, received
        return MUCH_B / MIB / (time.perf_counter() - begun)

    async def through_api() -> float:
        received = 0
        begun = time.perf_counter()
        async with plain.ws_connect(f"{path}/exec/stream") as socket:
            start = {"type": "start", "cmd": "head", "args": program, "encoding": "binary"}
            await socket.send_json(start)
            async for message in socket:
                if message.type is aiohttp.WSMsgType.BINARY:
                    received += len(message.data) - 1
        assert received == MUCH_B, received
        return MUCH_B / MIB / (time.perf_counter() - begun)

    floors, values = await alternating(straight, through_api, rounds=MUCH_ROUNDS)
    share = median(values) / median(floors)
    return Figure(
        "1 GB of output through the WebSocket",
        f"{median(floors):.0f} MB/s (straight to envd)",
        f"{median(values):.0f} MB/s",
        f"{share:.0%}",
        "≥ 50 % of the floor",
        share >= 0.5,
    )


async def _keystrokes(
    plain: aiohttp.ClientSession, path: str, guest: GuestConnection, rounds: int
) -> list[Figure]:
    async with _straight_terminal(guest) as (process, outputs), _terminal(plain, path) as socket:

        async def straight() -> float:
            begun = time.perf_counter()
            await process.write(b"x")
            await outputs.get()
            return (time.perf_counter() - begun) * 1000

        async def through_api() -> float:
            begun = time.perf_counter()
            await socket.send_json({"type": "input", "data": base64.b64encode(b"x").decode()})
            while json.loads(await socket.receive_str())["type"] != "output":
                pass
            return (time.perf_counter() - begun) * 1000

        await alternating(straight, through_api, rounds=WARM_UP)
        floors, values = await alternating(straight, through_api, rounds=rounds * 20)
    figures: list[Figure] = []
    for name, share, limit_ms in [("p50", 0.5, 5), ("p99", 0.99, 15)]:
        floor, value = percentile(floors, share), percentile(values, share)
        figures.append(
            Figure(
                f"keystroke to echo in a terminal, {name}",
                f"{floor:.1f} ms (straight to envd)",
                f"{value:.1f} ms",
                f"+{value - floor:.1f} ms",
                f"≤ floor + {limit_ms} ms",
                value - floor <= limit_ms,
            )
        )
    return figures


@asynccontextmanager
async def _terminal(
    plain: aiohttp.ClientSession, path: str
) -> AsyncGenerator[aiohttp.ClientWebSocketResponse]:
    async with plain.ws_connect(f"{path}/pty") as socket:
        await socket.send_json({"type": "start", "cmd": "cat", "on_disconnect": "kill"})
        assert json.loads(await socket.receive_str())["type"] == "started"
        yield socket


@asynccontextmanager
async def _straight_terminal(
    guest: GuestConnection,
) -> AsyncGenerator[tuple[FollowedProcess, asyncio.Queue[Output]]]:
    outputs: asyncio.Queue[Output] = asyncio.Queue()
    async with Processes(guest).start(CommandLine("cat"), size=(80, 24)) as process:
        started = asyncio.Event()

        async def read() -> None:
            async for events in process.events():
                started.set()
                for event in events:
                    if isinstance(event, Output):
                        outputs.put_nowait(event)

        reading = asyncio.create_task(read())
        try:
            await started.wait()
            yield process, outputs
        finally:
            reading.cancel()
            await asyncio.wait({reading})
            await process.kill_quietly()
