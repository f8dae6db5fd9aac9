"""A snapshot is stored by one agent, and sandboxes are created from it on another. Takes about 10 s."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from tests.agent.kit import assert_nothing_left, created, new_spec, output, until
from tests.agent.memory_store import MemoryStore, assert_done, connected
from wrenn.agent.sandboxes import State
from wrenn.agent.settings import Settings
from wrenn.agent.wiring import Agent
from wrenn.base.errors import NotFound, Unavailable, WrennError
from wrenn.base.faults import FaultInjected, arm_faults
from wrenn.base.ids import ImageId, SnapshotId
from wrenn.base.secrets import Secret
from wrenn.storage import snapshots
from wrenn.storage.errors import DamagedSnapshot

POINTS = [
    "agent.adopt.after_table",
    "agent.adopt.after_fetch",
    "agent.adopt.after_base",
    "agent.adopt.after_layers",
    "agent.fetch_snapshot.after_files",
]


async def taken(agent: Agent, text: str = "held") -> SnapshotId:
    """A snapshot of a sandbox with a file; the sandbox is removed."""
    spec, sandbox = await created(agent.sandboxes)
    await output(sandbox, f"echo {text} >/root/held")
    snapshot_id = SnapshotId.new()
    await agent.sandboxes.ensure_snapshot(spec.sandbox_id, snapshot_id)
    await agent.sandboxes.remove(spec.sandbox_id)
    return snapshot_id


async def stored(agent: Agent, snapshot_id: SnapshotId) -> ImageId:
    image_id = ImageId.new()
    assert_done(await agent.sandboxes.stored_snapshots.store(snapshot_id, image_id, wait_s=30))
    return image_id


async def create_from(agent: Agent, snapshot_id: SnapshotId, image_id: ImageId | None) -> str:
    """What the file says in a new sandbox from the snapshot; the sandbox is removed."""
    spec = new_spec(snapshot_id=str(snapshot_id))
    await agent.sandboxes.ensure(spec, snapshot_image=image_id)
    found = await output(agent.sandboxes.get(spec.sandbox_id), "cat /root/held")
    await agent.sandboxes.remove(spec.sandbox_id)
    return found


def has(agent: Agent, snapshot_id: SnapshotId) -> bool:
    return snapshots.is_pinned(agent.layout.snapshots, str(snapshot_id))


async def test_sandboxes_are_created_from_a_snapshot_of_another_host(
    source: Agent, target: Agent, store: MemoryStore
) -> None:
    snapshot_id = await taken(source)
    image_id = await stored(source, snapshot_id)
    with pytest.raises(NotFound):
        await create_from(target, snapshot_id, None)
    found = await asyncio.gather(*(create_from(target, snapshot_id, image_id) for _ in range(3)))
    assert found == ["held\n"] * 3
    # It is here now: the store is not needed.
    store.images.clear()
    assert await create_from(target, snapshot_id, ImageId.new()) == "held\n"
    assert await create_from(source, snapshot_id, None) == "held\n"
    for agent in (source, target):
        assert has(agent, snapshot_id)
        agent.sandboxes.remove_snapshot(snapshot_id)
        await assert_nothing_left(agent)
        assert not has(agent, snapshot_id)


async def test_a_sandbox_from_a_fetched_snapshot_outlives_it_and_can_be_paused(
    source: Agent, target: Agent
) -> None:
    snapshot_id = await taken(source)
    image_id = await stored(source, snapshot_id)
    spec = new_spec(snapshot_id=str(snapshot_id))
    await target.sandboxes.ensure(spec, snapshot_image=image_id)
    target.sandboxes.remove_snapshot(snapshot_id)
    await target.sandboxes.pause(spec.sandbox_id)
    await target.sandboxes.resume(spec.sandbox_id)
    assert await output(target.sandboxes.get(spec.sandbox_id), "cat /root/held") == "held\n"
    await target.sandboxes.remove(spec.sandbox_id)
    await assert_nothing_left(target)


async def test_a_snapshot_that_came_with_another_one_is_completed(source: Agent, target: Agent) -> None:
    """The target has it without its token and not pinned, as after the move of a sandbox whose memory lies on it."""
    snapshot_id = await taken(source)
    image_id = await stored(source, snapshot_id)
    await create_from(target, snapshot_id, image_id)
    folder = target.layout.snapshots / str(snapshot_id)
    (folder / "token").unlink()
    snapshots.unpin(target.layout.snapshots, str(snapshot_id))
    assert await create_from(target, snapshot_id, image_id) == "held\n"
    assert has(target, snapshot_id)


@pytest.mark.parametrize("point", POINTS)
async def test_a_fetch_that_fails_leaves_nothing(source: Agent, target: Agent, point: str) -> None:
    snapshot_id = await taken(source)
    image_id = await stored(source, snapshot_id)
    arm_faults(f"{point}=error")
    with pytest.raises(FaultInjected):
        await create_from(target, snapshot_id, image_id)
    arm_faults("")
    assert target.sandboxes.list() == []
    assert not has(target, snapshot_id)
    await assert_nothing_left(target)
    assert await create_from(target, snapshot_id, image_id) == "held\n"


async def test_an_agent_that_ends_during_a_fetch_leaves_nothing(
    source: Agent, other_settings: Settings, store: MemoryStore
) -> None:
    snapshot_id = await taken(source)
    image_id = await stored(source, snapshot_id)
    async with connected(other_settings, store) as target:
        arm_faults("agent.fetch_snapshot.after_pin=error")
        with pytest.raises(FaultInjected):
            await create_from(target, snapshot_id, image_id)
        arm_faults("")
        left = snapshots.draft_path(target.layout.snapshots, f"incoming-{snapshot_id}")
        left.mkdir()
        (left / "part").write_bytes(b"x")
    async with connected(other_settings, store) as target:
        await assert_nothing_left(target)
        # It was whole and pinned when the former agent ended.
        assert await create_from(target, snapshot_id, None) == "held\n"


async def test_a_removal_ends_a_create_that_waits_for_a_fetch(source: Agent, target: Agent) -> None:
    snapshot_id = await taken(source)
    image_id = await stored(source, snapshot_id)
    spec = new_spec(snapshot_id=str(snapshot_id))
    arm_faults("agent.adopt.after_fetch=sleep:30")
    create = asyncio.create_task(target.sandboxes.ensure(spec, snapshot_image=image_id))
    await until(lambda: [record.state for record, _ in target.sandboxes.list()] == [State.STARTING])
    await asyncio.wait_for(target.sandboxes.remove(spec.sandbox_id), 10)
    with pytest.raises(WrennError):
        await create
    arm_faults("")
    await assert_nothing_left(target)
    assert await create_from(target, snapshot_id, image_id) == "held\n"


async def test_what_the_store_has_under_a_wrong_name_is_refused(source: Agent, target: Agent) -> None:
    wanted, other = await taken(source, "held"), await taken(source, "other")
    image_id = await stored(source, other)
    with pytest.raises(DamagedSnapshot):
        await create_from(target, wanted, image_id)
    await assert_nothing_left(target)
    with pytest.raises(NotFound):
        await source.sandboxes.stored_snapshots.store(SnapshotId.new(), ImageId.new(), wait_s=1)


async def test_an_upload_is_joined_and_one_as_another_image_ends_it(
    source: Agent, store: MemoryStore
) -> None:
    snapshot_id, image_id = await taken(source), ImageId.new()
    store.stalls = True
    first = await source.sandboxes.stored_snapshots.store(snapshot_id, image_id, wait_s=0.1)
    assert await source.sandboxes.stored_snapshots.store(snapshot_id, image_id, wait_s=0.1) is first
    other = await source.sandboxes.stored_snapshots.store(snapshot_id, ImageId.new(), wait_s=0.1)
    assert first.failure is not None
    assert first.failure.code == Unavailable.code
    store.stalls = False
    await other.wait(30)
    assert_done(other)
    await assert_nothing_left(source)


def test_the_token_of_a_snapshot_is_written_once(tmp_path: Path) -> None:
    folder = tmp_path / "snap-1"
    folder.mkdir()
    snapshots.adopt(tmp_path, "snap-1", Secret("a" * 64))
    snapshots.adopt(tmp_path, "snap-1", Secret("b" * 64))
    token = snapshots.guest_token(folder)
    assert token is not None
    assert token.reveal() == "a" * 64
    assert (folder / "token").stat().st_mode & 0o777 == 0o600
