"""The metrics of a control plane for Prometheus, beside those of its requests: sandboxes, creates, loops, database connections."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from prometheus_client import Gauge, Histogram
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from wrenn.base.loops import Loop
from wrenn.control.db import Database
from wrenn.control.sandboxes import State, count_by_status
from wrenn.telemetry import Metrics

_CREATE_BUCKETS_S = (0.05, 0.1, 0.2, 0.3, 0.5, 0.75, 1.0, 1.5, 2.5, 5.0, 10.0, 30.0, 120.0)


class PlatformMetrics:
    """Registers the metrics and updates them before each scrape."""

    def __init__(self, metrics: Metrics, database: Database) -> None:
        self._metrics = metrics
        self._database = database
        self._sandboxes = Gauge(
            "wrenn_sandboxes",
            "Live sandboxes of all teams by status; all control planes on one database report the same.",
            ("status",),
            registry=metrics.registry,
        )
        self._connections = Gauge(
            "wrenn_database_connections",
            "Connections of this control plane to PostgreSQL.",
            ("state",),
            registry=metrics.registry,
        )
        self._creates = Histogram(
            "wrenn_sandbox_create_seconds",
            "Time that creates of sandboxes took: `place` until the row is written, `start` until the sandbox runs.",
            ("phase",),
            buckets=_CREATE_BUCKETS_S,
            registry=metrics.registry,
        )
        metrics.before_scrape(self._update)

    def observe_create(self, phase: str, duration_s: float) -> None:
        """Record how long one phase of a create took."""
        self._creates.labels(phase).observe(duration_s)

    def watch_loops(self, loops: Sequence[Loop]) -> None:
        """Report what these background loops did last."""
        self._metrics.registry.register(_LoopCollector(loops))

    async def _update(self) -> None:
        in_use, idle = self._database.connections()
        self._connections.labels("in_use").set(in_use)
        self._connections.labels("idle").set(idle)
        counts = await count_by_status(self._database)
        for status in State:
            self._sandboxes.labels(status.value).set(counts.get(status, 0))


class _LoopCollector(Collector):
    """Reads the status of background loops at each scrape."""

    def __init__(self, loops: Sequence[Loop]) -> None:
        self._loops = loops

    def collect(self) -> Iterable[Metric]:
        """Yield one metric family each for the last success, the duration of the last run, and failures."""
        success = GaugeMetricFamily(
            "wrenn_loop_last_success_timestamp_seconds",
            "When the last successful run of a background loop began, in Unix time.",
            labels=("loop",),
        )
        duration = GaugeMetricFamily(
            "wrenn_loop_duration_seconds",
            "How long the last finished run of a background loop took.",
            labels=("loop",),
        )
        failures = CounterMetricFamily(
            "wrenn_loop_failures", "Failed runs of a background loop.", labels=("loop",)
        )
        for loop in self._loops:
            name = (loop.status.name,)
            failures.add_metric(name, loop.total_failures)
            if loop.last_success_at_unix is not None:
                success.add_metric(name, loop.last_success_at_unix)
            if loop.status.duration_s is not None:
                duration.add_metric(name, loop.status.duration_s)
        return (success, duration, failures)
