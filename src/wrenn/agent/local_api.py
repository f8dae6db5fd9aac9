"""The host API on a Unix socket in the data folder, for programs of root on this machine: `wrenn up`, `wrenn doctor`."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import AsyncGenerator, Generator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any, Final

import uvicorn

from wrenn.base.on_failure import on_failure
from wrenn.relay import SERVER_OPTIONS

_GRACE_S: Final = 1


@asynccontextmanager
async def serving_locally(app: Any, path: Path) -> AsyncGenerator[None]:
    """Serve `app` on a Unix socket that only its owner can connect to. The caller holds the data folder's lock."""
    listener = _listen(path)
    try:
        config = uvicorn.Config(app, timeout_graceful_shutdown=_GRACE_S, **SERVER_OPTIONS)
        server = _Server(config)
        task = asyncio.create_task(server.serve(sockets=[listener]))
        try:
            yield
        finally:
            server.should_exit = True
            await task
    finally:
        listener.close()
        path.unlink(missing_ok=True)


class _Server(uvicorn.Server):
    """Leaves signals to the server of the host API."""

    @contextmanager
    def capture_signals(self) -> Generator[None]:
        """Do nothing: no signals are captured."""
        yield


def _listen(path: Path) -> socket.socket:
    # Of an agent that was killed.
    path.unlink(missing_ok=True)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    with on_failure(listener.close):
        # Before it has a name, so that nobody else can connect at any moment.
        os.fchmod(listener.fileno(), 0o600)
        listener.bind(str(path))
        listener.listen(16)
    return listener
