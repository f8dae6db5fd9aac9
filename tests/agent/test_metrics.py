"""The sampler of a real agent over the simulated driver: what sandboxes use, and where their samples go."""

from __future__ import annotations

import asyncio
import base64
import json
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

import pytest

from tests.agent.kit import created, output, until
from wrenn.agent.guest_tokens import Tokens
from wrenn.agent.layout import Layout
from wrenn.agent.metrics import sampler as sampler_module
from wrenn.agent.parts import Parts
from wrenn.agent.rpc.service import HostAgentService
from wrenn.agent.settings import Settings
from wrenn.agent.wiring import Agent, running_agent
from wrenn.base.clock import Clock, SystemClock
from wrenn.base.errors import InvalidRequest
from wrenn.base.faults import FaultInjected, arm_faults
from wrenn.base.ids import SandboxId
from wrenn.guest import GuestConnection
from wrenn.guest.connect import ENVD_PORT
from wrenn.protocol.host import host_pb as pb
from wrenn.protocol.samples import NEWEST_LIMIT, Sample, Tier, unpack_samples
from wrenn.testing.simulated_agent import ProcessHost

INTERVAL_S = 0.05
SILENT_ADDRESS = "127.0.0.77"


@pytest.fixture
def settings(settings: Settings) -> Settings:
    """Ten times as fast."""
    return replace(settings, sample_interval_s=INTERVAL_S)


@pytest.fixture
async def quick(settings: Settings) -> AsyncIterator[Agent]:
    async with running_agent(settings, ProcessHost()) as agent:
        yield agent


def samples(agent: Agent, sandbox_id: SandboxId, tier: Tier = Tier.FINE) -> list[Sample]:
    return list(unpack_samples(agent.sampler.since(sandbox_id, tier, 0)))


async def sampled(agent: Agent, sandbox_id: SandboxId, count: int) -> list[Sample]:
    """The samples of a sandbox once there are so many."""
    await until(lambda: len(samples(agent, sandbox_id)) >= count)
    return samples(agent, sandbox_id)


def outbox(agent: Agent) -> dict[tuple[str, str], list[Sample]]:
    """What waits for the control plane, by sandbox and tier."""
    found: dict[tuple[str, str], list[Sample]] = {}
    for path in agent.outbox.files():
        for series in json.loads(path.read_bytes())["series"]:
            key = (series["sandbox_id"], series["tier"])
            found.setdefault(key, []).extend(unpack_samples(base64.b64decode(series["samples"])))
    return found


async def test_a_busy_sandbox_uses_more_cpu_than_an_idle_one(quick: Agent):
    busy, running = await created(quick.sandboxes)
    idle, _ = await created(quick.sandboxes)
    await output(running, "(setsid sh -c 'while :; do :; done' >/dev/null 2>&1 &)")
    await sampled(quick, busy.sandbox_id, 40)
    found = samples(quick, busy.sandbox_id)[-20:]
    still = (await sampled(quick, idle.sandbox_id, 40))[-20:]
    busy_pct, idle_pct = (sum(each.cpu_pct for each in those) / 20 for those in (found, still))
    # On a machine that others use too, a loop gets what is left.
    assert busy_pct > 2 * idle_pct + 2
    assert all(0 <= each.cpu_pct <= 100 for each in found)
    assert all(each.mem_b > 0 for each in found)
    assert abs(found[-1].at_ms / 1000 - time.time()) < 5


async def test_slow_figures_are_there_soon_and_the_guest_is_believed_for_its_own_only(quick: Agent):
    spec, running = await created(quick.sandboxes)
    before = running.last_active_at
    await until(
        lambda: (n := quick.sampler.newest(spec.sandbox_id)) is not None and n.guest_disk_total_b is not None
    )
    newest = quick.sampler.newest(spec.sandbox_id)
    assert newest is not None
    assert newest.mem_pss_b is not None
    assert newest.mem_pss_b > 0
    assert newest.disk_b is not None
    assert newest.guest_mem_used_b is not None
    assert newest.guest_mem_available_b is not None
    # Samples are no activity: a sandbox that is only looked at falls asleep.
    assert running.last_active_at == before


async def test_the_share_of_memory_is_read_again_when_memory_was_used(
    quick: Agent, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(sampler_module, "_SLOW_TICKS", 2)
    spec, running = await created(quick.sandboxes)
    reads: list[int | None] = []
    read = running.vm.proportional_b

    def counted() -> int | None:
        reads.append(read())
        return reads[-1]

    monkeypatch.setattr(running.vm, "proportional_b", counted)
    await sampled(quick, spec.sandbox_id, 30)
    assert 1 <= len(reads) <= 5, "an idle one has the share that it had"
    before = quick.sampler.newest(spec.sandbox_id)
    await output(
        running,
        "(setsid python3 -c 'b = b\"x\" * 64_000_000; import time; time.sleep(60)' >/dev/null 2>&1 &)",
    )
    await until(
        lambda: (
            (n := quick.sampler.newest(spec.sandbox_id)) is not None
            and before is not None
            and (n.mem_pss_b or 0) > (before.mem_pss_b or 0) + 50_000_000
        )
    )
    # After a minute it is read again in any case.
    monkeypatch.setattr(sampler_module, "_SHARE_TICKS", 2)
    count = len(reads)
    await until(lambda: len(reads) >= count + 5)


async def test_a_pause_puts_all_tiers_into_the_outbox_and_a_resume_begins_without_a_jump(quick: Agent):
    spec, running = await created(quick.sandboxes)
    await output(running, "(setsid sh -c 'while :; do :; done' >/dev/null 2>&1 &)")
    await sampled(quick, spec.sandbox_id, 10)
    await quick.sandboxes.pause(spec.sandbox_id)
    await until(lambda: bool(outbox(quick)))
    stored = outbox(quick)
    assert {tier for _, tier in stored} == {"10m", "2h", "24h"}
    fine = stored[(str(spec.sandbox_id), "10m")]
    assert len(fine) >= 10
    # What was sent is readable here too, until it surely is in the database.
    assert [each.at_ms for each in samples(quick, spec.sandbox_id)] == [each.at_ms for each in fine]
    assert quick.sampler.newest(spec.sandbox_id) is None
    await quick.sandboxes.resume(spec.sandbox_id)
    await sampled(quick, spec.sandbox_id, len(fine) + 10)
    after = samples(quick, spec.sandbox_id)[len(fine) :]
    # Its programs did not survive (simulated driver): whoever counted from the former VM's CPU time would see a jump.
    assert sum(each.cpu_pct for each in after[2:]) / len(after[2:]) < 40
    times = [each.at_ms for each in samples(quick, spec.sandbox_id)]
    assert times == sorted(set(times))


async def test_of_a_removed_sandbox_the_coarse_samples_are_stored(quick: Agent):
    spec, _ = await created(quick.sandboxes)
    await sampled(quick, spec.sandbox_id, 5)
    await quick.sandboxes.remove(spec.sandbox_id)
    await until(lambda: bool(outbox(quick)))
    assert {tier for _, tier in outbox(quick)} == {"24h"}


async def test_a_vm_that_ends_by_itself_and_a_failed_pause_lose_no_samples(quick: Agent):
    spec, running = await created(quick.sandboxes)
    await sampled(quick, spec.sandbox_id, 5)
    running.vm.handle.process.kill()
    await until(lambda: bool(outbox(quick)))
    assert (str(spec.sandbox_id), "10m") in outbox(quick)


async def test_a_reading_that_fails_loses_no_samples_of_a_sandbox_that_ended(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
):
    class Broken(Exception):
        """An error that no code expects."""

    async with running_agent(settings, ProcessHost()) as agent:
        ending, _ = await created(agent.sandboxes)
        staying, _ = await created(agent.sandboxes)
        taken = await sampled(agent, ending.sandbox_id, 3)
        await sampled(agent, staying.sandbox_id, 1)

        def fails(*_arguments: object) -> None:
            raise Broken

        monkeypatch.setattr(agent.sampler, "_read", fails)
        await agent.sandboxes.pause(ending.sandbox_id)
        await until(lambda: (str(ending.sandbox_id), "10m") in outbox(agent))
        stored = outbox(agent)[str(ending.sandbox_id), "10m"]
        assert stored[: len(taken)] == taken


async def test_a_pause_that_fails_interrupts_nothing(quick: Agent):
    spec, _ = await created(quick.sandboxes)
    before = len(await sampled(quick, spec.sandbox_id, 5))
    arm_faults("agent.pause.after_freeze=error")
    with pytest.raises(FaultInjected):
        await quick.sandboxes.pause(spec.sandbox_id)
    arm_faults("")
    await sampled(quick, spec.sandbox_id, before + 10)
    assert outbox(quick) == {}
    assert len(samples(quick, spec.sandbox_id, Tier.COARSE)) == 1


async def test_an_agent_that_ends_leaves_everything_to_the_next_one(settings: Settings):
    async with running_agent(settings, ProcessHost()) as agent:
        spec, _ = await created(agent.sandboxes)
        count = len(await sampled(agent, spec.sandbox_id, 10))
    async with running_agent(settings, ProcessHost()) as later:
        fine = outbox(later)[(str(spec.sandbox_id), "10m")]
        assert len(fine) >= count
        await sampled(later, spec.sandbox_id, 3)
        again = samples(later, spec.sandbox_id)
        assert again[0].at_ms > fine[-1].at_ms
        # The CPU time of the machine since it began is not taken for that of the first sample.
        assert again[0].cpu_pct < 50


async def test_a_guest_that_does_not_answer_costs_its_own_figures_only(
    quick: Agent, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(sampler_module, "_GUEST_TIMEOUT_S", 0.1)
    spec, running = await created(quick.sandboxes)
    other, _ = await created(quick.sandboxes)

    def has_figures() -> bool:
        newest = quick.sampler.newest(spec.sandbox_id)
        return newest is not None and newest.guest_mem_used_b is not None

    async def say_nothing(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()  # until the other side closes
        writer.close()

    await until(has_figures)
    server = await asyncio.start_server(say_nothing, SILENT_ADDRESS, ENVD_PORT)
    answering, running.guest = running.guest, GuestConnection(SILENT_ADDRESS, running.token)
    before = len(samples(quick, other.sandbox_id))
    await until(lambda: not has_figures())
    # All the time the others were sampled as usual.
    await sampled(quick, other.sandbox_id, before + 5)
    silent, running.guest = running.guest, answering
    await silent.close()
    server.close()
    await until(has_figures)


@asynccontextmanager
async def guest_server(answer: bytes) -> AsyncGenerator[tuple[str, Callable[[], int]]]:
    """The URL of a server that sends this, or nothing at all, to each request, and how many there were."""
    count = 0

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal count
        with suppress(OSError, asyncio.IncompleteReadError):
            while await reader.readuntil(b"\r\n\r\n"):
                count += 1
                if answer:
                    writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(answer) + answer)
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}", lambda: count
    finally:
        server.close()


FIGURES = b'{"mem_total": 4096, "mem_used": 1024, "disk_used": 1, "disk_total": 2}'


async def test_a_silent_guest_holds_up_no_slow_sample_of_others(
    quick: Agent, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(sampler_module, "_GUEST_TIMEOUT_S", 120.0)
    _, running = await created(quick.sandboxes)
    async with guest_server(b"") as (url, asked):
        running.guest.base_url = url
        await until(lambda: asked() == 1)
        other, _ = await created(quick.sandboxes)
        await until(
            lambda: (n := quick.sampler.newest(other.sandbox_id)) is not None and n.disk_b is not None
        )
        await until(
            lambda: (
                (n := quick.sampler.newest(other.sandbox_id)) is not None and n.guest_mem_used_b is not None
            )
        )
        assert asked() == 1
        await quick.sampler.close()


async def test_a_guest_that_did_not_answer_is_asked_less_often(quick: Agent, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(sampler_module, "_GUEST_TIMEOUT_S", 0.05)
    monkeypatch.setattr(sampler_module, "_SLOW_TICKS", 3)
    spec, silent = await created(quick.sandboxes)
    _, prompt = await created(quick.sandboxes)
    async with guest_server(b"") as (nowhere, silent_asked), guest_server(FIGURES) as (url, prompt_asked):
        silent.guest.base_url, prompt.guest.base_url = nowhere, url
        await until(lambda: prompt_asked() >= 15)
        assert 1 <= silent_asked() <= 7
        # One that answers again has figures again.
        silent.guest.base_url = url
        await until(
            lambda: (n := quick.sampler.newest(spec.sandbox_id)) is not None and n.guest_mem_used_b == 1024
        )
        await quick.sampler.close()


async def test_samples_can_be_asked_for_by_tier_and_of_many_at_once(quick: Agent):
    spec, _ = await created(quick.sandboxes)
    await sampled(quick, spec.sandbox_id, 5)
    facts: Any = None
    service = HostAgentService(
        sandboxes=quick.sandboxes, images=quick.images, facts=facts, sampler=quick.sampler
    )
    text_id = str(spec.sandbox_id)
    answer = await service.get_samples(pb.GetSamplesRequest(sandbox_id=text_id, tier="2h"), None)
    assert len(list(unpack_samples(answer.samples))) >= 1
    nobody = str(SandboxId.new())
    unknown = await service.get_samples(pb.GetSamplesRequest(sandbox_id=nobody, tier="10m"), None)
    assert unknown.samples == b""
    newest = await service.get_newest_samples(pb.GetNewestSamplesRequest(sandbox_ids=[text_id, nobody]), None)
    assert [each.sandbox_id for each in newest.samples] == [text_id]
    with pytest.raises(InvalidRequest):
        await service.get_samples(pb.GetSamplesRequest(sandbox_id=text_id, tier="1y"), None)
    with pytest.raises(InvalidRequest):
        await service.get_newest_samples(
            pb.GetNewestSamplesRequest(sandbox_ids=[text_id] * (NEWEST_LIMIT + 1)), None
        )


async def test_no_samples_are_taken_where_that_is_switched_off(settings: Settings):
    async with running_agent(replace(settings, sample_interval_s=0.0), ProcessHost()) as agent:
        spec, _ = await created(agent.sandboxes)
        await asyncio.sleep(INTERVAL_S * 4)
        assert samples(agent, spec.sandbox_id) == []
        assert not agent.layout.metrics.exists()


class SetBack(SystemClock):
    """The clock of the machine, which a test may set back."""

    by = timedelta()

    def now(self) -> datetime:
        return super().now() - self.by


class HostWithClock(ProcessHost):
    """A host with this clock."""

    def __init__(self, clock: Clock) -> None:
        super().__init__()
        self._clock = clock

    @asynccontextmanager
    async def parts(self, settings: Settings, layout: Layout, tokens: Tokens) -> AsyncGenerator[Parts]:
        async with super().parts(settings, layout, tokens) as parts:
            yield replace(parts, clock=self._clock)


async def test_samples_go_on_when_the_clock_is_set_back(settings: Settings):
    clock = SetBack()
    async with running_agent(settings, HostWithClock(clock)) as agent:
        spec, _ = await created(agent.sandboxes)
        before = await sampled(agent, spec.sandbox_id, 10)
        clock.by = timedelta(hours=1)
        newest = agent.sampler.newest
        await until(lambda: (n := newest(spec.sandbox_id)) is not None and n.at_ms < before[0].at_ms)
        # What came before is stored, and readable until it is.
        assert {each.at_ms for each in before} <= {each.at_ms for each in samples(agent, spec.sandbox_id)}
        await until(lambda: (str(spec.sandbox_id), "10m") in outbox(agent))
