"""The metrics of one process. Names follow https://prometheus.io/docs/practices/naming/: base units, `_total` for counters."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Final

from prometheus_client import GC_COLLECTOR, CollectorRegistry, ProcessCollector
from prometheus_client.exposition import choose_encoder

_log = logging.getLogger(__name__)

_REFRESH_TIMEOUT_S: Final = 3.0
"""Prometheus gives up after 10 s by default."""


class Metrics:
    """A registry, and the functions that bring its gauges up to date before each scrape.

    Attributes:
        registry: where metrics are registered; one per process, so that tests can run several programs in one process.
    """

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        # Memory, CPU time, open files; collections of garbage.
        ProcessCollector(registry=self.registry)
        self.registry.register(GC_COLLECTOR)
        self._refreshers: list[Callable[[], Awaitable[None]]] = []

    def before_scrape(self, refresh: Callable[[], Awaitable[None]]) -> None:
        """Have `refresh` awaited before each scrape. What it raises is logged, and its gauges keep their former values."""
        self._refreshers.append(refresh)

    async def render(self, accept: str) -> tuple[bytes, str]:
        """All metrics as text and its content type: the text format or OpenMetrics, whichever `accept` asks for."""
        await asyncio.gather(*(self._refresh(refresh) for refresh in self._refreshers))
        encode, content_type = choose_encoder(accept)
        return encode(self.registry), content_type

    async def _refresh(self, refresh: Callable[[], Awaitable[None]]) -> None:
        try:
            async with asyncio.timeout(_REFRESH_TIMEOUT_S):
                await refresh()
        except Exception:  # noqa: BLE001 - one source that fails must not hide the metrics of the others
            _log.exception("metrics not refreshed")
