"""Images on a host: made of a paused sandbox's disk, used for creates, removed. Costs 6 s, most of it for killed agents."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest
from connectrpc.errors import ConnectError
from protobuf import Oneof

from tests.agent.kit import assert_nothing_left, client_of, created, output, until
from wrenn.agent.images import DiskSource, ImageStatus, StoredSource
from wrenn.agent.settings import Settings
from wrenn.agent.wiring import Agent, running_agent
from wrenn.base.errors import InvalidState, Unavailable
from wrenn.base.faults import FaultInjected, arm_faults
from wrenn.base.ids import ImageId, SandboxId
from wrenn.protocol.host import host_pb as pb
from wrenn.storage.images import ImageFolder
from wrenn.testing.enrolment import issue_credentials
from wrenn.testing.simulated_agent import AgentProcess, ProcessHost

POINTS = ["agent.image.before_flatten", "agent.image.after_flatten", "images.image.before_rename"]


async def paused(agent: Agent, content: str = "built") -> SandboxId:
    spec, sandbox = await created(agent.sandboxes)
    await output(sandbox, f"echo {content} >/root/file; chown 1234:5678 /root/file; ln -s file /root/link")
    await agent.sandboxes.pause(spec.sandbox_id)
    return spec.sandbox_id


async def ensured(agent: Agent, image_id: ImageId, sandbox_id: SandboxId) -> ImageStatus:
    return await agent.images.ensure(image_id, DiskSource(sandbox_id), wait_s=20)


async def assert_no_image_left(agent: Agent) -> None:
    assert agent.images.list() == []
    assert ImageFolder(agent.layout.images).drafts() == []
    await assert_nothing_left(agent)


async def test_a_sandbox_of_an_image_has_the_files_of_the_disk_that_it_was_made_of(agent: Agent) -> None:
    sandbox_id, image_id = await paused(agent), ImageId.new()
    before = agent.inventory.digest()
    first, second = await asyncio.gather(*(ensured(agent, image_id, sandbox_id) for _ in range(2)))
    assert first.ready is not None
    assert first == second, "two callers joined one job"
    assert first.ready.size_b == agent.parts.driver.disks.image_size_b("")
    assert agent.inventory.digest() != before
    assert agent.inventory.heartbeat().host["templates"] == ["minimal"]
    await agent.sandboxes.resume(sandbox_id)
    await agent.sandboxes.remove(sandbox_id)

    spec, sandbox = await created(agent.sandboxes, template=str(image_id))
    assert await output(sandbox, "cat /root/link; stat -c %u:%g /root/file") == "built\n1234:5678\n"
    await agent.images.remove(image_id)
    await agent.images.remove(image_id)
    await agent.sandboxes.pause(spec.sandbox_id)
    await agent.sandboxes.resume(spec.sandbox_id)
    assert await output(agent.sandboxes.get(spec.sandbox_id), "cat /root/file") == "built\n"
    with pytest.raises(Unavailable, match="not connected"):  # it would be fetched
        await created(agent.sandboxes, template=str(image_id))
    await agent.sandboxes.remove(spec.sandbox_id)
    await assert_no_image_left(agent)


async def test_a_failure_is_returned_once_and_the_next_call_begins_again(agent: Agent) -> None:
    spec, _ = await created(agent.sandboxes)
    image_id = ImageId.new()
    status = await ensured(agent, image_id, spec.sandbox_id)
    assert status.failure is not None
    assert (status.failure.code, "not paused" in status.failure.message) == ("invalid_state", True)
    assert agent.images.list() == []
    await agent.sandboxes.pause(spec.sandbox_id)
    arm_faults("agent.image.after_flatten=error")
    status = await ensured(agent, image_id, spec.sandbox_id)
    assert status.failure is not None
    assert status.failure.code == "internal_error", "no detail of the host is told"
    arm_faults("agent.image.after_flatten=enospc")
    assert (await agent.images.ensure(image_id, DiskSource(spec.sandbox_id))).failure is None
    await until(lambda: [one.failure is None for one in agent.images.list()] == [False])
    arm_faults("")
    assert (await ensured(agent, image_id, spec.sandbox_id)).failure is not None, "not told before"
    assert (await ensured(agent, image_id, spec.sandbox_id)).ready is not None
    missing = await ensured(agent, ImageId.new(), SandboxId.new())
    assert missing.failure is not None
    assert missing.failure.code == "not_found"
    stored = await agent.images.ensure(ImageId.new(), StoredSource(), wait_s=5)
    assert stored.failure is not None
    assert stored.failure.code == "host_unavailable"
    await agent.images.remove(image_id)
    await agent.sandboxes.remove(spec.sandbox_id)
    await assert_no_image_left(agent)


async def test_a_preparation_ends_with_its_image_or_its_sandbox(agent: Agent) -> None:
    sandbox_id, image_id = await paused(agent), ImageId.new()
    arm_faults("agent.image.before_flatten=sleep:60")
    waiting = asyncio.create_task(ensured(agent, image_id, sandbox_id))
    await until(lambda: [one.progress.phase for one in agent.images.list()] == ["flatten"])
    await agent.images.remove(image_id)
    with pytest.raises(InvalidState, match="removed"):
        await waiting
    await assert_no_image_left(agent)

    waiting = asyncio.create_task(ensured(agent, image_id, sandbox_id))
    await until(lambda: [one.progress.phase for one in agent.images.list()] == ["flatten"])
    await agent.sandboxes.remove(sandbox_id)
    status = await waiting
    assert status.failure is not None
    assert "removed" in status.failure.message
    await assert_no_image_left(agent)


async def test_a_removal_that_was_interrupted_is_completed_by_the_next_agent(settings: Settings) -> None:
    async with running_agent(settings, ProcessHost()) as agent:
        sandbox_id, image_id = await paused(agent), ImageId.new()
        await ensured(agent, image_id, sandbox_id)
        arm_faults("images.image.removal=error")
        with pytest.raises(FaultInjected):
            await agent.images.remove(image_id)
        arm_faults("")
        assert agent.images.list() == []
        await agent.sandboxes.remove(sandbox_id)
    async with running_agent(settings, ProcessHost()) as agent:
        await assert_no_image_left(agent)


async def test_few_images_are_prepared_at_a_time(agent: Agent) -> None:
    sandboxes = [await paused(agent) for _ in range(3)]
    arm_faults("agent.image.before_flatten=sleep:60")
    images = [ImageId.new() for _ in sandboxes]
    for image_id, sandbox_id in zip(images, sandboxes, strict=True):
        await agent.images.ensure(image_id, DiskSource(sandbox_id))
    await until(
        lambda: sorted(one.progress.phase for one in agent.images.list()) == ["", "flatten", "flatten"]
    )
    arm_faults("")
    await agent.images.remove(images[0])
    assert (await ensured(agent, images[2], sandboxes[2])).ready is not None


@pytest.fixture
async def process(data_dir: Path, pki: Path) -> AsyncIterator[AgentProcess]:
    process = AgentProcess(data_dir)
    issue_credentials(data_dir, pki, process.address)
    yield process
    await process.kill()


@pytest.mark.parametrize("point", POINTS)
async def test_an_agent_killed_while_it_prepares_an_image_leaves_nothing(
    process: AgentProcess, settings: Settings, pki: Path, point: str
) -> None:
    async with running_agent(settings, ProcessHost()) as agent:
        sandbox_id = await paused(agent)
    await process.start(faults=f"{point}=kill")
    image_id = ImageId.new()
    request = pb.EnsureImageRequest(
        image_id=str(image_id),
        wait_ms=20_000,
        source=Oneof("disk_of", pb.SandboxDisk(sandbox_id=str(sandbox_id))),
    )
    with pytest.raises(ConnectError):
        await client_of(process.url, pki).ensure_image(request)
    await process.wait_killed()
    async with running_agent(settings, ProcessHost()) as agent:
        await assert_no_image_left(agent)
        assert (await ensured(agent, image_id, sandbox_id)).ready is not None
        await agent.images.remove(image_id)
        await agent.sandboxes.remove(sandbox_id)
        await assert_no_image_left(agent)


async def test_images_that_were_not_used_for_longest_leave_when_all_take_more_than_the_limit(
    settings: Settings,
) -> None:
    async with running_agent(replace(settings, image_cache_b=1), ProcessHost()) as agent:
        sandbox_id = await paused(agent)
        folder = ImageFolder(agent.layout.images)

        async def made(*, uploaded: bool = True) -> ImageId:
            image_id = ImageId.new()
            image = (await ensured(agent, image_id, sandbox_id)).ready
            assert image is not None
            if uploaded:
                folder.set_uploaded(image, uploaded_b=1)
            return image_id

        def used_long_ago(image_id: ImageId) -> None:
            os.utime(agent.layout.images / str(image_id), (1, 1))

        running, unused, not_uploaded, recent = (
            await made(),
            await made(),
            await made(uploaded=False),
            await made(),
        )
        spec, _ = await created(agent.sandboxes, template=str(running))
        for image_id in (running, unused, not_uploaded):
            used_long_ago(image_id)
        newest = await made()
        assert set(folder.ids()) == {running, not_uploaded, recent, newest}

        await agent.sandboxes.remove(spec.sandbox_id)
        used_long_ago(recent)
        last = await made()
        assert set(folder.ids()) == {not_uploaded, newest, last}
        for image_id in folder.ids():
            await agent.images.remove(image_id)
        await agent.sandboxes.remove(sandbox_id)
        await assert_no_image_left(agent)
