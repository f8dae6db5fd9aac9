"""Counts and times the requests of an ASGI application."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final

from prometheus_client import Counter, Gauge, Histogram
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from wrenn.telemetry.metrics import Metrics

ROUTE: Final = "wrenn.route"
"""Key in the scope under which an application may name the route itself."""
PORT: Final = "port"
"""The route of visits of ports of sandboxes."""
_BUCKETS_S: Final = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
_METHODS: Final = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
_STATUS_OF: Final = {
    "http.response.start": None,
    "websocket.http.response.start": None,
    "websocket.accept": 101,
}
"""Messages that begin an answer; None: with a status of their own."""


class RequestMetrics:
    """Middleware that counts requests by method, route and status, and times those that are no stream.

    `route_of` names the route of a scope after it was served, from a fixed set: a path that a client made up must not become
    a time series.
    """

    def __init__(self, app: ASGIApp, metrics: Metrics, prefix: str, route_of: Callable[[Scope], str]) -> None:
        self._app = app
        self._route_of = route_of
        self._requests = Counter(
            f"{prefix}_requests",
            "Requests answered; status 101 is an accepted WebSocket, 0 a request whose client went away.",
            ("method", "route", "status"),
            registry=metrics.registry,
        )
        self._duration = Histogram(
            f"{prefix}_request_duration_seconds",
            "Time from a request's head to the head of its answer.",
            ("method", "route"),
            buckets=_BUCKETS_S,
            registry=metrics.registry,
        )
        self._open = Gauge(
            f"{prefix}_requests_in_progress",
            "Requests and WebSockets that are being served.",
            registry=metrics.registry,
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] not in ("http", "websocket"):
            await self._app(scope, receive, send)
            return
        began = time.perf_counter()
        status, answered_s = 0, 0.0

        async def send_counted(message: Message) -> None:
            nonlocal status, answered_s
            if not status and message["type"] in _STATUS_OF:
                status = _STATUS_OF[message["type"]] or int(message["status"])
                answered_s = time.perf_counter() - began
            await send(message)

        self._open.inc()
        try:
            await self._app(scope, receive, send_counted)
        finally:
            self._open.dec()
            method = scope.get("method", "WEBSOCKET")
            method = method if method in _METHODS or scope["type"] == "websocket" else "other"
            route = scope.get(ROUTE) or self._route_of(scope)
            # Programs in sandboxes may answer anything.
            label = f"{status // 100}xx" if route == PORT and status else str(status)
            self._requests.labels(method, route, label).inc()
            if status:
                self._duration.labels(method, route).observe(answered_s)
