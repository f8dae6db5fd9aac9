"""Samples of real virtual machines: CPU, memory, disk and network, as the host and as the guest see them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from tests.vm.kit import created, output
from wrenn.agent.wiring import Agent
from wrenn.base.ids import SandboxId
from wrenn.base.units import MIB
from wrenn.protocol.samples import Sample, Tier, unpack_samples

DEADLINE_S = 60.0
BUSY = "(setsid sh -c 'while :; do :; done' >/dev/null 2>&1 &)"


def samples(agent: Agent, sandbox_id: SandboxId) -> list[Sample]:
    return list(unpack_samples(agent.sampler.since(sandbox_id, Tier.FINE, 0)))


async def until(agent: Agent, sandbox_id: SandboxId, done: Callable[[Sample], bool]) -> Sample:
    """The newest sample, once it is as it should be."""
    async with asyncio.timeout(DEADLINE_S):
        while (newest := agent.sampler.newest(sandbox_id)) is None or not done(newest):
            await asyncio.sleep(0.1)
    return newest


async def test_a_virtual_machine_is_measured_by_its_host_and_by_its_guest(agent: Agent):
    spec, running = await created(agent.sandboxes)
    newest = await until(agent, spec.sandbox_id, lambda found: found.guest_disk_total_b is not None)
    assert newest.mem_pss_b is not None
    assert 8 * MIB < newest.mem_pss_b <= newest.mem_b
    assert newest.disk_b is not None
    assert newest.guest_mem_used_b is not None
    assert newest.guest_mem_available_b is not None
    memory_b = newest.guest_mem_used_b + newest.guest_mem_available_b
    assert 0.5 < memory_b / (spec.shape.memory_mb * MIB) <= 1
    assert newest.guest_disk_used_b is not None
    assert newest.guest_disk_total_b is not None
    assert 0 < newest.guest_disk_used_b < newest.guest_disk_total_b
    # It writes a file, which its disk on the host and its own figure contain.
    await output(running, "dd if=/dev/urandom of=/root/data bs=1M count=30 conv=fsync 2>/dev/null")
    before_b, guest_before_b = newest.disk_b, newest.guest_disk_used_b
    await until(
        agent,
        spec.sandbox_id,
        lambda found: (
            (found.disk_b or 0) > before_b + 25 * MIB
            and (found.guest_disk_used_b or 0) > guest_before_b + 25 * MIB
        ),
    )
    # What a command prints leaves the guest by its network.
    await output(running, "head -c 3000000 /dev/zero")
    async with asyncio.timeout(DEADLINE_S):
        while max(sample.net_out_b_per_s for sample in samples(agent, spec.sandbox_id)) < 500_000:
            await asyncio.sleep(0.1)


async def test_load_is_seen_and_a_resume_begins_without_a_jump(agent: Agent):
    spec, running = await created(agent.sandboxes)
    await output(running, BUSY)
    await until(agent, spec.sandbox_id, lambda found: found.cpu_pct > 50)
    before = samples(agent, spec.sandbox_id)
    await agent.sandboxes.pause(spec.sandbox_id)
    async with asyncio.timeout(DEADLINE_S):
        while agent.sampler.newest(spec.sandbox_id) is not None:
            await asyncio.sleep(0.1)
    assert agent.outbox.files()
    await agent.sandboxes.resume(spec.sandbox_id)
    await until(agent, spec.sandbox_id, lambda found: found.cpu_pct > 50)
    after = samples(agent, spec.sandbox_id)
    assert [sample.at_ms for sample in after[: len(before)]] == [sample.at_ms for sample in before]
    times = [sample.at_ms for sample in after]
    assert times == sorted(set(times))
    assert all(0 <= sample.cpu_pct <= 100 for sample in after)
