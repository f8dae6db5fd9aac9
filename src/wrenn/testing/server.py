"""A uvicorn server inside the test's own event loop."""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import socket
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager, suppress
from typing import Final

import uvicorn

_POLL_S = 0.005
_TICK_S = 1.0


class _Server(uvicorn.Server):
    """Does not handle signals, and stops as soon as it is told to, without polling."""

    def __init__(self, config: uvicorn.Config, before_shutdown: Callable[[], None]) -> None:
        super().__init__(config)
        self.stop_requested = asyncio.Event()
        self._before_shutdown = before_shutdown

    async def main_loop(self) -> None:
        """Serve until stopped."""
        while not self.stop_requested.is_set():
            # It also sets the `Date` of the following responses.
            await self.on_tick(0)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_TICK_S):
                    await self.stop_requested.wait()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:  # noqa: ARG002 - closed below
        """Let the requests in progress end. uvicorn's own method polls in steps of 0.1 s, at least once."""
        self._before_shutdown()
        # asyncio of Python 3.11 leaks a connection that is accepted in the same turn in which the server is closed.
        loop = asyncio.get_running_loop()
        for listener in (each for server in self.servers for each in server.sockets):
            loop.remove_reader(listener.fileno())
        await asyncio.sleep(_POLL_S)
        for server in self.servers:
            server.close()
        state = self.server_state
        try:
            async with asyncio.timeout(self.config.timeout_graceful_shutdown):
                while True:
                    for connection in list(state.connections):
                        connection.shutdown()
                    # uvicorn sends no notification.
                    await asyncio.sleep(_POLL_S)
                    if not state.connections and not state.tasks and not self._has_clients():
                        break
                for server in self.servers:
                    await server.wait_closed()
        except TimeoutError:
            for task in state.tasks:
                task.cancel()
            for connection in list(state.connections):
                connection.transport.abort()
        await self.lifespan.shutdown()

    def _has_clients(self) -> bool:
        """Whether a client is connected; uvicorn knows of it only when TLS is established."""
        return any(getattr(server, "_active_count", 0) for server in self.servers)

    @contextlib.contextmanager
    def capture_signals(self):
        """Do nothing: no signals are captured."""
        yield


@asynccontextmanager
async def served(
    config: uvicorn.Config, before_shutdown: Callable[[], None] = lambda: None
) -> AsyncGenerator[int]:
    """Serve until the block ends; yields the port, which the kernel chooses if the config has 0."""
    # With the protocol given, asyncio sets TCP_NODELAY; without it each small response is delayed by 40 ms.
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    with listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((config.host, config.port))
        listener.listen(256)
        server = _Server(config, before_shutdown)
        task = asyncio.create_task(server.serve(sockets=[listener]))
        try:
            yield listener.getsockname()[1]
        finally:
            server.stop_requested.set()
            await task


_FREE_PORTS: Final = range(20_000, 32_000)
"""Below those that Linux gives to outgoing connections: one of them could take the port before it is used."""


def free_port() -> int:
    """Return a TCP port of loopback that is free at the moment."""
    while True:
        port = secrets.choice(_FREE_PORTS)
        with suppress(OSError), socket.create_server(("127.0.0.1", port)):
            return port
