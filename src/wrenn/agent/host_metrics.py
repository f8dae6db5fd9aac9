"""Prometheus metrics of the agent: sandboxes by state, and use of the host's resources."""

from __future__ import annotations

import asyncio
from collections import Counter
from pathlib import Path

from prometheus_client import Gauge

from wrenn.agent.machine import measure
from wrenn.agent.sandboxes import Sandboxes, State
from wrenn.base.units import MIB
from wrenn.telemetry import Metrics


class HostMetrics:
    """Gauges of one host, updated before each scrape."""

    def __init__(self, metrics: Metrics, *, data_dir: Path, sandboxes: Sandboxes) -> None:
        self._data_dir = data_dir
        self._sandboxes = sandboxes
        registry = metrics.registry
        self._states = Gauge(
            "wrenn_agent_sandboxes", "Sandboxes on this host by state.", ("state",), registry=registry
        )
        self._promised = Gauge(
            "wrenn_agent_sandbox_memory_bytes", "Memory of the sandboxes that run.", registry=registry
        )
        self._cores = Gauge("wrenn_host_cpus", "Processors of this host.", registry=registry)
        self._memory = Gauge("wrenn_host_memory_bytes", "Memory of this host.", registry=registry)
        self._memory_free = Gauge(
            "wrenn_host_memory_available_bytes",
            "Memory of this host that can be used without swapping.",
            registry=registry,
        )
        self._disk = Gauge(
            "wrenn_host_disk_bytes", "Size of the file system with the data folder.", registry=registry
        )
        self._disk_free = Gauge(
            "wrenn_host_disk_available_bytes", "Free space of that file system.", registry=registry
        )
        metrics.before_scrape(self._refresh)

    async def _refresh(self) -> None:
        records = [record for record, _ in self._sandboxes.list()]
        states = Counter(record.state for record in records)
        for state in State:
            self._states.labels(state.value).set(states[state])
        running_mb = sum(r.spec.shape.memory_mb for r in records if r.state is State.RUNNING)
        self._promised.set(running_mb * MIB)
        machine = await asyncio.to_thread(measure, self._data_dir)
        self._cores.set(machine.cpu_cores)
        self._memory.set(machine.memory_b)
        self._memory_free.set(machine.memory_available_b)
        self._disk.set(machine.disk_b)
        self._disk_free.set(machine.disk_available_b)
