"""Serves `/metrics` on a port of its own, which is never that of the API."""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import AsyncGenerator, Generator
from contextlib import asynccontextmanager, contextmanager
from functools import partial
from typing import Final

import uvicorn
from starlette.types import Receive, Scope, Send

from wrenn.base.addresses import MetricsAddress
from wrenn.base.errors import InvalidRequest
from wrenn.telemetry.metrics import Metrics

_log = logging.getLogger(__name__)

_KEEP_ALIVE_S: Final = 75
_GRACE_S: Final = 1
_CONNECTIONS: Final = 20


class _Server(uvicorn.Server):
    """A server beside the program's own, which has the signals."""

    @contextmanager
    def capture_signals(self) -> Generator[None]:
        """Leave the signal handlers alone."""
        yield


@asynccontextmanager
async def serving_metrics(metrics: Metrics, address: MetricsAddress) -> AsyncGenerator[int]:
    """Serve until the block ends; gives the port, 0 where nothing is served.

    Raises:
        InvalidRequest: the address that the operator chose cannot be used.
    """
    listener = _listen(address)
    if listener is None:
        yield 0
        return
    config = uvicorn.Config(
        partial(_answer, metrics),
        interface="asgi3",
        lifespan="off",
        proxy_headers=False,
        access_log=False,
        log_config=None,
        timeout_keep_alive=_KEEP_ALIVE_S,
        timeout_graceful_shutdown=_GRACE_S,
        limit_concurrency=_CONNECTIONS,
    )
    server = _Server(config)
    serving = asyncio.create_task(server.serve(sockets=[listener]), name="serve metrics")
    try:
        yield listener.getsockname()[1]
    finally:
        server.should_exit = True
        await asyncio.wait({serving})
        listener.close()


def _listen(address: MetricsAddress) -> socket.socket | None:
    if not address.host:
        return None
    try:
        return socket.create_server(
            (address.host, address.port), family=socket.AF_INET6 if ":" in address.host else socket.AF_INET
        )
    except OSError as error:
        place = f"{address.host}:{address.port}"
        if not address.is_default:
            raise InvalidRequest(
                f"Metrics cannot be served on {place}: {error.strerror or error}. Choose another address."
            ) from error
        _log.warning("metrics are not served", extra={"address": place, "reason": error.strerror})
        return None


async def _answer(metrics: Metrics, scope: Scope, _receive: Receive, send: Send) -> None:
    """Serve one request."""
    if scope["type"] != "http":
        await send({"type": "websocket.close"})
        return
    status, body, content_type = 404, b"Metrics are at /metrics.\n", "text/plain; charset=utf-8"
    if scope["path"] == "/metrics" and scope["method"] in ("GET", "HEAD"):
        status = 200
        accept = dict(scope["headers"]).get(b"accept", b"").decode("latin-1")
        body, content_type = await metrics.render(accept)
    headers = [
        (b"content-type", content_type.encode()),
        (b"content-length", str(len(body)).encode()),
        (b"cache-control", b"no-store"),
    ]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
