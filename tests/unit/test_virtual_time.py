"""The event loop with virtual time, and its network in memory."""

from __future__ import annotations

import asyncio
import os
import secrets
import time
from collections.abc import Awaitable, Callable
from datetime import timedelta
from importlib import import_module
from random import Random
from typing import Any

import pytest

from wrenn.base.ids import random_hex
from wrenn.linux.threads import run_to_end
from wrenn.testing import virtual_time
from wrenn.testing.simulation import Network, NetworkLoop, seeded_randomness
from wrenn.testing.simulation.network import MemoryTransport
from wrenn.testing.virtual_time import NothingLeftToRun, TimeStandsStill, VirtualClock, VirtualTimeLoop


def run(main: Callable[[], Awaitable[None]], thread_s: Callable[[], float] = lambda: 0.0) -> None:
    async def body() -> None:
        await main()

    virtual_time.run(body, lambda: VirtualTimeLoop(thread_s))


def test_time_passes_at_once_when_nothing_is_runnable() -> None:
    async def main() -> None:
        clock, loop = VirtualClock(), asyncio.get_running_loop()
        began = clock.now()
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(3600):
                await asyncio.sleep(7200)
        await asyncio.gather(*(asyncio.sleep(n) for n in range(100)))
        assert loop.time() == pytest.approx(3699)
        assert clock.now() - began == timedelta(seconds=3699)

    real = time.monotonic()
    run(main)
    assert time.monotonic() - real < 5


def test_libraries_see_the_virtual_time() -> None:
    connector: Any = import_module("aiohttp.connector")

    async def main() -> None:
        def now() -> list[float]:
            return [time.monotonic(), time.perf_counter(), time.time(), connector.monotonic()]

        before, before_ns = now(), time.monotonic_ns()
        await asyncio.sleep(3600)
        assert [after - at for after, at in zip(now(), before, strict=True)] == [pytest.approx(3600)] * 4
        assert time.monotonic_ns() - before_ns == pytest.approx(3600e9)
        assert time.time() == pytest.approx(VirtualClock().now().timestamp())

    real = time.time()
    run(main)
    assert 0 <= time.time() - real < 60


def test_work_for_threads_takes_virtual_time_and_keeps_its_order() -> None:
    async def main() -> None:
        done: list[str] = []
        loop = asyncio.get_running_loop()
        late = asyncio.create_task(run_to_end(lambda: done.append("run to end")))
        await asyncio.to_thread(done.append, "to thread")
        await late
        assert sorted(done) == ["run to end", "to thread"]
        given_up = asyncio.create_task(asyncio.to_thread(done.append, "given up"))
        await asyncio.sleep(0.5)
        given_up.cancel()
        await asyncio.sleep(5)
        assert done[-1] == "given up"  # as a thread, which cannot be stopped
        with pytest.raises(ZeroDivisionError):
            await asyncio.to_thread(lambda: 1 / 0)
        assert loop.time() > 5

    run(main, thread_s=lambda: 1.0)


def test_what_can_never_continue_is_an_error() -> None:
    async def waiting() -> None:
        await asyncio.Event().wait()

    async def spinning() -> None:
        while True:
            await asyncio.sleep(0)

    with pytest.raises(NothingLeftToRun):
        run(waiting)
    with pytest.raises(TimeStandsStill):
        run(spinning)


def test_something_can_be_done_between_two_steps() -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        assert isinstance(loop, VirtualTimeLoop)
        seen: list[int] = []
        for step in (30, 20):
            loop.call_at_step(step, lambda: seen.append(loop.steps))
        for _ in range(50):
            await asyncio.sleep(0)
        assert seen == [20, 30]

    run(main)


def test_randomness_of_the_system_can_come_from_a_seed() -> None:
    def draw() -> tuple[object, ...]:
        with seeded_randomness(Random(5)):
            return random_hex(8), secrets.token_bytes(4), os.urandom(4), secrets.randbelow(10**9)

    assert draw() == draw()
    assert random_hex(8) != draw()[0]


class Echo(asyncio.Protocol):
    """Sends back what it gets."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, MemoryTransport)
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self.transport.write(data)


class Server:
    """Echoes on port 7."""

    def __init__(self) -> None:
        self.transports: list[MemoryTransport] = []

    async def accept(self, port: int) -> asyncio.Protocol | None:
        return Echo() if port == 7 else None

    def accepted(self, transport: MemoryTransport) -> None:
        self.transports.append(transport)


def connected(scene: Callable[[Network, Server], Awaitable[None]]) -> None:
    """Play a scene with a server at 10.0.0.1."""
    random = Random(1)
    network, server = Network(lambda: random.uniform(0.001, 0.01)), Server()
    network.listen("10.0.0.1", server)

    async def body() -> None:
        await scene(network, server)

    virtual_time.run(body, lambda: NetworkLoop(lambda _address: network, lambda: None, lambda: 0.0))


def test_bytes_arrive_in_order_and_a_slow_reader_holds_up_the_sender() -> None:
    async def scene(network: Network, server: Server) -> None:
        reader, writer = await asyncio.open_connection("10.0.0.1", 7)
        sent = bytes(range(256)) * 4000

        async def send() -> None:
            for begin in range(0, len(sent), 5000):
                writer.write(sent[begin : begin + 5000])
                await writer.drain()

        sending = asyncio.create_task(send())
        server.transports[0].halt(halted=True)
        await asyncio.sleep(100)
        assert not sending.done()
        server.transports[0].halt(halted=False)
        assert await reader.readexactly(len(sent)) == sent
        await sending
        writer.write_eof()
        assert await reader.read() == b""
        writer.close()
        await writer.wait_closed()

    connected(scene)


def test_connections_are_refused_reset_and_lost() -> None:
    async def scene(network: Network, server: Server) -> None:
        with pytest.raises(ConnectionRefusedError):
            await asyncio.open_connection("10.0.0.1", 8)
        with pytest.raises(OSError, match="No route"):
            await asyncio.open_connection("10.0.0.2", 7)
        first, first_writer = await asyncio.open_connection("10.0.0.1", 7)
        network.reset("10.0.0.1")
        assert await first.read() == b""
        second, second_writer = await asyncio.open_connection("10.0.0.1", 7)
        server.transports[1].abort()
        with pytest.raises(ConnectionResetError):
            await second.read()
        third, writer = await asyncio.open_connection("10.0.0.1", 7)
        server.transports[2].cut()
        writer.write(b"hello")
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(1000):
                await third.read()
        for each in (first_writer, second_writer, writer):
            each.close()

    connected(scene)
