"""The web server, which tells the application when it is about to wait for the answers under way."""

from __future__ import annotations

import socket
from collections.abc import Callable

import uvicorn


class Server(uvicorn.Server):
    """`before_shutdown` is called once the server takes no more connections: for answers that would never end."""

    def __init__(self, config: uvicorn.Config, before_shutdown: Callable[[], None]) -> None:
        super().__init__(config)
        self._before_shutdown = before_shutdown

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Let the answers under way end."""
        self._before_shutdown()
        await super().shutdown(sockets)
