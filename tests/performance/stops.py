"""How long a running sandbox stands still while it is kept as a snapshot or forked.

Its own clock stands still with it, so beside what the agent says stands what is seen from outside: a program in the guest sends
a byte every few ms, and the longest silence between two of them counts.
"""

from __future__ import annotations

import asyncio
import socket
import threading
import time
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, suppress
from itertools import pairwise

import httpx2

from tests.performance.api import create, forget, fork, keep, remove, run
from tests.performance.figures import Figure, median
from tests.performance.floor import straight_to_guest
from tests.performance.inside import slot_of
from tests.performance.traced import Trace, traced
from tests.vm.platform import Platform
from wrenn.guest import CommandLine, Commands
from wrenn.network import find_block

MEMORY_MB = 512
IDLE_S = 0.5
LIMIT_MS = 60
PORT = 7000
TICKER = f"""
import socket, time
server = socket.create_server(("0.0.0.0", {PORT}))
client = server.accept()[0]
client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
while True:
    client.send(b".")
    time.sleep(0.005)
"""
NAME = "of-the-benchmark"
STEPS = {
    "after_hold": "guest held",
    "after_freeze": "VM stopped",
    "after_memory": "memory",
    "after_state": "devices",
    "after_overlay": "new layer",
    "after_thaw": "VM and guest go on",
}


class Listener(threading.Thread):
    """Hears what the ticker sends."""

    def __init__(self, connection: socket.socket) -> None:
        super().__init__(daemon=True)
        self._connection = connection
        self.heard: list[float] = []

    def run(self) -> None:
        """Until the connection is closed; the ticker may still be sending then."""
        with suppress(ConnectionResetError):
            while self._connection.recv(4096):
                self.heard.append(time.monotonic())

    async def longest_silence_ms(self, since: float) -> float:
        """The longest one since then; waits for the end of the present one."""
        now = time.monotonic()
        while not self.heard or self.heard[-1] < now:
            await asyncio.sleep(0.001)
        moments = [since, *(at for at in self.heard if at > since)]
        return max(b - a for a, b in pairwise(moments)) * 1000


@asynccontextmanager
async def _listener(platform: Platform, sandbox_id: str) -> AsyncGenerator[Listener]:
    block = find_block(platform.data_dir)
    assert block is not None
    async with straight_to_guest(platform, sandbox_id) as guest:
        await Commands(guest).start(CommandLine("python3", ("-c", TICKER)), tag="ticker")
    with await _connected(str(block.address(slot_of(platform.data_dir, sandbox_id)))) as connection:
        listener = Listener(connection)
        listener.start()
        try:
            yield listener
        finally:
            connection.shutdown(socket.SHUT_RDWR)
            await asyncio.to_thread(listener.join)


async def _connected(address: str) -> socket.socket:
    async with asyncio.timeout(10):
        while True:
            try:
                return await asyncio.to_thread(socket.create_connection, (address, PORT), 1)
            except OSError:
                await asyncio.sleep(0.02)


async def stops(platform: Platform, rounds: int) -> list[Figure]:
    """Figures of stopping."""
    async with traced(platform) as trace, platform.client() as api:
        await remove(api, await create(api, memory_mb=MEMORY_MB))
        by_snapshot, by_fork = _Stops("a snapshot"), _Stops("a fork")
        for _ in range(rounds):
            await _round(platform, api, trace, by_snapshot, by_fork)
        return [*by_snapshot.figures(), *by_fork.figures()]


async def _round(
    platform: Platform, api: httpx2.AsyncClient, trace: Trace, by_snapshot: _Stops, by_fork: _Stops
) -> None:
    sandbox_id = await create(api, memory_mb=MEMORY_MB)
    await run(api, sandbox_id)
    async with _listener(platform, sandbox_id) as listener:
        await asyncio.sleep(IDLE_S)
        for stop in (by_snapshot, by_fork):
            since = time.monotonic()
            await asyncio.sleep(IDLE_S)
            stop.calm.append(await listener.longest_silence_ms(since))
            trace.begin()
            since = time.monotonic()
            if stop is by_snapshot:
                await keep(api, sandbox_id, NAME)
            else:
                (copy,) = await fork(api, sandbox_id, 1)
                await remove(api, copy)
            stop.add(trace, await listener.longest_silence_ms(since))
    await forget(api, NAME)
    await remove(api, sandbox_id)


class _Stops:
    """What was measured of one verb."""

    def __init__(self, verb: str) -> None:
        self._verb = verb
        self._stopped: list[float] = []
        self._silences: list[float] = []
        self._steps: dict[str, list[float]] = {point: [] for point in STEPS}
        self.calm: list[float] = []

    def add(self, trace: Trace, silence_ms: float) -> None:
        """One round."""
        self._stopped.append(float(trace.event("snapshot taken")["stopped_ms"]))
        self._silences.append(silence_ms)
        for point, step_ms in trace.steps_ms(of="snapshot").items():
            if (name := point.rpartition(".")[2]) in self._steps:
                self._steps[name].append(step_ms)

    def figures(self) -> list[Figure]:
        """Rows of the table."""
        stopped = median(self._stopped)
        steps = " · ".join(f"{STEPS[point]} {median(ms):.1f}" for point, ms in self._steps.items() if ms)
        return [
            Figure(
                f"stop of an idle running {MEMORY_MB} MB sandbox by {self._verb}",
                "–",
                f"{stopped:.0f} ms ({steps})",
                "–",
                f"≤ {LIMIT_MS} ms",
                stopped <= LIMIT_MS,
            ),
            Figure(
                f"stop by {self._verb} seen from outside: longest silence of a program that sends every 5 ms",
                f"{median(self.calm):.0f} ms (nothing happens to it)",
                f"{median(self._silences):.0f} ms",
                f"+{median(self._silences) - median(self.calm):.0f} ms",
                "–",
                None,
            ),
        ]
