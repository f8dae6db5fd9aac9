"""A uvicorn server inside the test's own event loop."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager

import uvicorn


class _Server(uvicorn.Server):
    """Leaves the process's signal handlers alone, and ends when told instead of at its next look at the clock."""

    def __init__(self, config: uvicorn.Config, before_shutdown: Callable[[], None]) -> None:
        super().__init__(config)
        self.told = asyncio.Event()
        self._before_shutdown = before_shutdown

    async def main_loop(self) -> None:
        """Serve until told."""
        await self.on_tick(0)
        await self.told.wait()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Let the answers under way end."""
        self._before_shutdown()
        await super().shutdown(sockets)

    @contextlib.contextmanager
    def capture_signals(self):
        """Nothing to capture."""
        yield


@asynccontextmanager
async def served(
    config: uvicorn.Config, before_shutdown: Callable[[], None] = lambda: None
) -> AsyncGenerator[int]:
    """Serve until the block ends; gives the port, which is chosen by the kernel when the config says 0."""
    # With the protocol named, asyncio sets TCP_NODELAY; without it each small answer waits 40 ms.
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind((config.host, config.port))
    listener.listen(256)
    server = _Server(config, before_shutdown)
    task = asyncio.create_task(server.serve(sockets=[listener]))
    try:
        yield listener.getsockname()[1]
    finally:
        server.told.set()
        await task
        listener.close()


def free_port() -> int:
    """A TCP port of loopback that is free now."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return probe.getsockname()[1]
