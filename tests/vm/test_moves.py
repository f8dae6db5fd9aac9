"""Sandboxes with a counting process go from one agent to another, paused or as a snapshot, and go on counting. Takes about 90 s, most of it boots."""

from __future__ import annotations

import asyncio
import shutil
import tempfile
import time
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest

from tests.agent.kit import until
from tests.agent.memory_store import MemoryStore
from tests.installations import remove_installation
from tests.vm.kit import DEFAULT_SHAPE, created, new_spec, output, sh
from wrenn.agent.sandboxes import SandboxSpec, State
from wrenn.agent.settings import Settings
from wrenn.agent.wiring import Agent, running_agent
from wrenn.base.ids import ImageId, SnapshotId
from wrenn.storage import snapshots
from wrenn.testing.server import free_port


@pytest.fixture
async def other(images_dir: Path) -> AsyncIterator[Agent]:
    """An agent with a data folder of its own, and so with a base of its own."""
    folder = Path(tempfile.mkdtemp(prefix="wrenn-test-"))
    settings = Settings.from_environment(
        {
            "WRENN_DATA_DIR": str(folder),
            "WRENN_IMAGES_DIR": str(images_dir),
            "WRENN_AGENT_LISTEN": f"127.0.0.1:{free_port()}",
            "WRENN_READY_SLOTS": "2",
        }
    )
    try:
        async with running_agent(settings) as agent:
            await agent.bases.get("minimal", DEFAULT_SHAPE)
            yield agent
    finally:
        await remove_installation(folder)
        shutil.rmtree(folder)


async def moved(source: Agent, target: Agent, spec: SandboxSpec, generation: int) -> tuple[int, float]:
    """Move a paused sandbox. Returns how many bytes were sent, and the seconds that the transfer took."""
    image_id = ImageId.new()
    began = time.monotonic()
    stored = await source.sandboxes.store(spec.sandbox_id, image_id, wait_s=60)
    assert stored.is_done
    assert stored.failure is None, stored.failure
    adopted = await target.sandboxes.adopt_stored(replace(spec, generation=generation), image_id, wait_s=60)
    assert adopted.is_done
    assert adopted.failure is None, adopted.failure
    took_s = time.monotonic() - began
    await source.sandboxes.remove(spec.sandbox_id)
    return stored.sent_b, took_s


async def test_a_counting_sandbox_goes_to_another_host_and_back(agent: Agent, other: Agent) -> None:
    store = MemoryStore()
    for each in (agent, other):
        each.preparation.connect(store)
    origin, sandbox = await created(agent.sandboxes)
    await output(sandbox, "echo template >/root/origin")
    snapshot_id = SnapshotId.new()
    await agent.sandboxes.ensure_snapshot(origin.sandbox_id, snapshot_id)
    # One that was made from a template with memory: it lies on that, which lies on a base.
    for made_from in ("", str(snapshot_id)):
        spec, sandbox = await created(agent.sandboxes, snapshot_id=made_from)
        await output(
            sandbox,
            "head -c 8000000 /dev/urandom >/root/data; sync;"
            " (n=0; while :; do n=$((n+1)); echo $n >/tmp/count; sleep 0.05; done) >/dev/null 2>&1 & sleep 0.5",
        )
        digest = await output(sandbox, "sha256sum /root/data; cat /root/origin 2>/dev/null || true")
        await agent.sandboxes.pause(spec.sandbox_id)
        base = agent.sandboxes.inspect(spec.sandbox_id)[0].base
        source, target = agent, other
        count = 0
        for generation in (2, 3):
            await moved(source, target, spec, generation)
            record, _ = target.sandboxes.inspect(spec.sandbox_id)
            assert record.state is State.PAUSED
            await target.sandboxes.resume(spec.sandbox_id)
            sandbox = target.sandboxes.get(spec.sandbox_id)
            assert (
                await output(sandbox, "sha256sum /root/data; cat /root/origin 2>/dev/null || true") == digest
            )
            before, count = count, int(await output(sandbox, "cat /tmp/count"))
            assert count > before
            await asyncio.sleep(0.5)
            assert int(await output(sandbox, "cat /tmp/count")) > count, "it goes on counting"
            assert (await sh(sandbox, "dmesg | grep -c 'Oops\\|Kernel panic\\|BUG:'")).exit_code == 1
            await target.sandboxes.pause(spec.sandbox_id)
            source, target = target, source
        assert agent.sandboxes.inspect(spec.sandbox_id)[0].base == base, "it is on its first base again"
        await agent.sandboxes.remove(spec.sandbox_id)
        # Also not after the collector was there.
        await until(lambda: not other.parts.driver.disks.list_ids())
        await until(lambda: not list(snapshots.snapshot_ids(other.layout.snapshots)))
    await agent.sandboxes.remove(origin.sandbox_id)


async def test_a_snapshot_of_another_host_is_restored_with_its_processes(agent: Agent, other: Agent) -> None:
    """Two sandboxes are made from it on the other host: each goes on counting by itself, with the files that were there."""
    store = MemoryStore()
    for each in (agent, other):
        each.preparation.connect(store)
    origin, sandbox = await created(agent.sandboxes)
    await output(
        sandbox,
        "head -c 8000000 /dev/urandom >/root/data; sync;"
        " (n=0; while :; do n=$((n+1)); echo $n >/tmp/count; sleep 0.05; done) >/dev/null 2>&1 & sleep 0.5",
    )
    digest = await output(sandbox, "sha256sum /root/data")
    snapshot_id, image_id = SnapshotId.new(), ImageId.new()
    await agent.sandboxes.ensure_snapshot(origin.sandbox_id, snapshot_id)
    at_snapshot = int(await output(sandbox, "cat /tmp/count"))
    stored = await agent.sandboxes.stored_snapshots.store(snapshot_id, image_id, wait_s=60)
    assert stored.is_done
    assert stored.failure is None, stored.failure
    # The host that had it is not needed any more.
    await agent.sandboxes.remove(origin.sandbox_id)
    agent.sandboxes.remove_snapshot(snapshot_id)
    for _ in range(2):
        spec = new_spec(snapshot_id=str(snapshot_id))
        await other.sandboxes.ensure(spec, snapshot_image=image_id)
        restored = other.sandboxes.get(spec.sandbox_id)
        assert await output(restored, "sha256sum /root/data") == digest
        count = int(await output(restored, "cat /tmp/count"))
        await asyncio.sleep(0.5)
        assert count < int(await output(restored, "cat /tmp/count")), "it goes on counting"
        # Each begins where the snapshot was taken, not where the other one is.
        assert count < at_snapshot + 200
        assert (await sh(restored, "dmesg | grep -c 'Oops\\|Kernel panic\\|BUG:'")).exit_code == 1
        store.images.clear()
        await output(restored, "echo mine >/root/data; sync")
        await other.sandboxes.remove(spec.sandbox_id)
    other.sandboxes.remove_snapshot(snapshot_id)
    await until(lambda: not other.parts.driver.disks.list_ids())
    await until(lambda: not list(snapshots.snapshot_ids(other.layout.snapshots)))
