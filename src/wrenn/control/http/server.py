"""The web server, which calls the application before it waits for open requests at shutdown."""

from __future__ import annotations

import socket
from collections.abc import Callable

import uvicorn


class Server(uvicorn.Server):
    """A uvicorn server that calls `before_shutdown` once it accepts no more connections."""

    def __init__(self, config: uvicorn.Config, before_shutdown: Callable[[], None]) -> None:
        super().__init__(config)
        self._before_shutdown = before_shutdown

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Let the answers under way end."""
        self._before_shutdown()
        await super().shutdown(sockets)
