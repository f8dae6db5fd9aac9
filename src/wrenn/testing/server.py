"""A uvicorn server inside the test's own event loop."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import uvicorn


class _Server(uvicorn.Server):
    """Leaves the process's signal handlers alone, and ends when told instead of at its next look at the clock."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.told = asyncio.Event()

    async def main_loop(self) -> None:
        """Serve until told."""
        await self.on_tick(0)
        await self.told.wait()

    @contextlib.contextmanager
    def capture_signals(self):
        """Nothing to capture."""
        yield


@asynccontextmanager
async def served(config: uvicorn.Config) -> AsyncGenerator[int]:
    """Serve until the block ends; gives the port, which is chosen by the kernel when the config says 0."""
    # With the protocol named, asyncio sets TCP_NODELAY; without it each small answer waits 40 ms.
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind((config.host, config.port))
    listener.listen(256)
    server = _Server(config)
    task = asyncio.create_task(server.serve(sockets=[listener]))
    try:
        yield listener.getsockname()[1]
    finally:
        server.told.set()
        await task
        listener.close()
