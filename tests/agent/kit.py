"""Helpers of the agent tests."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

import pyqwest

from tests.vm.kit import created, new_spec, output, sh
from wrenn.agent.sandboxes.garbage_collector import find_referenced
from wrenn.agent.wiring import Agent
from wrenn.protocol.host.host_connect import HostAgentClient
from wrenn.storage import snapshots

__all__ = ["assert_nothing_left", "client_of", "created", "new_spec", "output", "sh", "until"]

DEADLINE_S = 30.0


async def until(done: Callable[[], bool]) -> None:
    async with asyncio.timeout(DEADLINE_S):
        while not done():
            await asyncio.sleep(0.01)


def leftovers(agent: Agent) -> list[str]:
    """What nobody owns: processes, slots, layers, snapshots, drafts, folders."""
    layout, parts = agent.layout, agent.parts
    entries = agent.sandboxes.list()
    known = {str(record.spec.sandbox_id) for record, _ in entries}
    running = {record.slot for record, _ in entries if record.slot is not None}
    wanted = find_referenced(layout, parts.driver.disks.list_ids(), [record for record, _ in entries])
    return [
        *(f"process of {name}" for name in parts.confiner.names() if name not in known),
        *(f"slot {index}" for index in parts.slots.held if index not in running),
        *(f"layer {layer}" for layer in parts.driver.disks.list_ids() if layer not in wanted.layers),
        *(
            f"snapshot {name}"
            for name in snapshots.snapshot_ids(layout.snapshots)
            if name not in wanted.snapshots
        ),
        *(str(path) for folder in (layout.snapshots, layout.bases) for path in folder.glob(".*")),
        *(str(path) for path in layout.sandboxes.iterdir() if path.name not in known),
        *(f"missing {name}" for name in wanted.missing),
    ]


async def assert_nothing_left(agent: Agent) -> None:
    """Also not after the collector was there."""
    try:
        await until(lambda: not leftovers(agent))
    except TimeoutError:
        raise AssertionError(leftovers(agent)) from None


def client_of(url: str, pki: Path) -> HostAgentClient:
    """A client of the host API, as the control plane is one."""
    transport = pyqwest.HTTPTransport(
        tls_ca_cert=(pki / "ca.pem").read_bytes(),
        tls_cert=(pki / "control.pem").read_bytes(),
        tls_key=(pki / "control.key").read_bytes(),
    )
    return HostAgentClient(
        url,
        http_client=pyqwest.Client(transport),
        accept_compression=[],
        send_compression=None,
        timeout_ms=20_000,
    )
