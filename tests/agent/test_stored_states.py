"""A paused sandbox is stored by one agent and adopted by another. Takes about 20 s."""

from __future__ import annotations

import asyncio
import json
import os
from contextlib import AsyncExitStack
from dataclasses import replace
from pathlib import Path

import pytest

from tests.agent.kit import DEADLINE_S, assert_nothing_left, created, output
from tests.agent.memory_store import MemoryStore, assert_done, connected
from wrenn.agent.sandboxes import NetworkSettings, SandboxSpec, State
from wrenn.agent.sandboxes.transfers import SCRATCH
from wrenn.agent.settings import Settings
from wrenn.agent.wiring import Agent
from wrenn.base.errors import (
    InvalidState,
    NotFound,
    StaleGeneration,
    StoreUnavailable,
    Unavailable,
    WrennError,
)
from wrenn.base.faults import arm_faults
from wrenn.base.ids import ImageId, SnapshotId
from wrenn.network import EgressPolicy
from wrenn.storage import snapshots
from wrenn.storage.errors import DamagedSnapshot
from wrenn.storage.objects import StateTable

POINTS = ["after_journal", "after_table", "after_fetch", "after_base", "after_layers", "after_files", "after_paused"]  # fmt: skip


async def paused(agent: Agent) -> SandboxSpec:
    spec, sandbox = await created(agent.sandboxes)
    await output(sandbox, "echo held >/root/held; ln -s held /root/link; chmod 600 /root/held")
    await agent.sandboxes.pause(spec.sandbox_id)
    return spec


async def stored(agent: Agent, spec: SandboxSpec) -> ImageId:
    image_id = ImageId.new()
    transfer = await agent.sandboxes.store(spec.sandbox_id, image_id, wait_s=30)
    assert_done(transfer)
    assert transfer.sent_b
    return image_id


async def assert_resumes(agent: Agent, spec: SandboxSpec) -> None:
    await agent.sandboxes.resume(spec.sandbox_id)
    sandbox = agent.sandboxes.get(spec.sandbox_id)
    assert await output(sandbox, "cat /root/link; stat -c %a /root/held") == "held\n600\n"


async def test_a_sandbox_goes_there_and_back_again(source: Agent, target: Agent) -> None:
    spec = replace(await paused(source), generation=2)
    image_id = await stored(source, spec)
    assert_done(await target.sandboxes.adopt_stored(spec, image_id, wait_s=30))
    record, running = target.sandboxes.inspect(spec.sandbox_id)
    assert (record.state, record.spec.generation, running) == (State.PAUSED, 2, None)
    # Asked again it is there, and not fetched again.
    assert_done(await target.sandboxes.adopt_stored(spec, ImageId.new(), wait_s=30))
    directory = target.layout.snapshots / record.snapshot
    assert (directory / "token").stat().st_mode & 0o777 == 0o600
    await source.sandboxes.remove(spec.sandbox_id)
    await assert_nothing_left(source)
    await assert_resumes(target, spec)
    await output(target.sandboxes.get(spec.sandbox_id), "echo there >>/root/held")
    await target.sandboxes.pause(spec.sandbox_id)
    record, _ = target.sandboxes.inspect(spec.sandbox_id)
    assert not (target.layout.snapshots / record.snapshot / "token").exists(), "it has this host's token now"

    # Back to where its base is already.
    image_id = await stored(target, spec)
    back = replace(spec, generation=3)
    assert_done(await source.sandboxes.adopt_stored(back, image_id, wait_s=30))
    await source.sandboxes.resume(spec.sandbox_id)
    assert await output(source.sandboxes.get(spec.sandbox_id), "cat /root/held") == "held\nthere\n"
    await target.sandboxes.remove(spec.sandbox_id)
    await assert_nothing_left(target)
    await assert_nothing_left(source)


async def test_copies_of_one_snapshot_share_what_the_target_has(source: Agent, target: Agent) -> None:
    first, _ = await created(source.sandboxes)
    snapshot_id = SnapshotId.new()
    await source.sandboxes.ensure_snapshot(first.sandbox_id, snapshot_id)
    copies = [await created(source.sandboxes, snapshot_id=str(snapshot_id)) for _ in range(2)]
    for spec, sandbox in copies:
        await output(sandbox, f"echo {spec.sandbox_id} >/root/name")
        await source.sandboxes.pause(spec.sandbox_id)
    images = [await stored(source, spec) for spec, _ in copies]
    transfers = await asyncio.gather(
        *(
            target.sandboxes.adopt_stored(spec, image_id, wait_s=30)
            for (spec, _), image_id in zip(copies, images, strict=True)
        )
    )
    for transfer in transfers:
        assert_done(transfer)
    for spec, _ in copies:
        await target.sandboxes.resume(spec.sandbox_id)
        assert await output(target.sandboxes.get(spec.sandbox_id), "cat /root/name") == f"{spec.sandbox_id}\n"
    for spec, _ in copies:
        await target.sandboxes.remove(spec.sandbox_id)
    await assert_nothing_left(target)


async def test_an_adopted_sandbox_that_was_not_resumed_can_be_saved_and_stored_again(
    source: Agent, target: Agent
) -> None:
    spec = await paused(source)
    image_id = await stored(source, spec)
    assert_done(await target.sandboxes.adopt_stored(spec, image_id, wait_s=30))
    snapshot_id = SnapshotId.new()
    await target.sandboxes.ensure_snapshot(spec.sandbox_id, snapshot_id)
    copy, sandbox = await created(target.sandboxes, snapshot_id=str(snapshot_id))
    assert await output(sandbox, "cat /root/held") == "held\n"
    again = await stored(target, spec)
    await source.sandboxes.remove(spec.sandbox_id)
    assert_done(await source.sandboxes.adopt_stored(spec, again, wait_s=30))
    await assert_resumes(source, spec)
    await target.sandboxes.remove(copy.sandbox_id)


@pytest.mark.parametrize("point", POINTS)
async def test_an_adoption_that_fails_leaves_nothing(source: Agent, target: Agent, point: str) -> None:
    spec = await paused(source)
    image_id = await stored(source, spec)
    arm_faults(f"agent.adopt.{point}=error")
    transfer = await target.sandboxes.adopt_stored(spec, image_id, wait_s=30)
    arm_faults("")
    assert transfer.failure is not None
    assert target.sandboxes.list() == []
    await assert_nothing_left(target)
    assert_done(await target.sandboxes.adopt_stored(spec, image_id, wait_s=30))
    await assert_resumes(target, spec)
    await assert_nothing_left(target)


@pytest.mark.parametrize("point", ["after_table", "after_upload"])
async def test_an_upload_that_fails_changes_nothing(
    source: Agent, target: Agent, store: MemoryStore, point: str
) -> None:
    spec = await paused(source)
    arm_faults(f"agent.store_state.{point}=error")
    transfer = await source.sandboxes.store(spec.sandbox_id, ImageId.new(), wait_s=30)
    arm_faults("")
    assert transfer.failure is not None
    store.is_down = True
    transfer = await source.sandboxes.store(spec.sandbox_id, ImageId.new(), wait_s=30)
    assert transfer.failure is not None
    assert transfer.failure.code == StoreUnavailable.code
    store.is_down = False
    image_id = await stored(source, spec)
    names = {path.name for path in source.layout.sandbox(spec.sandbox_id).iterdir()}
    assert names.isdisjoint(SCRATCH)
    assert_done(await target.sandboxes.adopt_stored(spec, image_id, wait_s=30))
    await assert_resumes(source, spec)


async def test_a_resume_and_a_removal_do_not_wait_for_an_upload(source: Agent, store: MemoryStore) -> None:
    spec = await paused(source)
    store.stalls = True
    transfer = await source.sandboxes.store(spec.sandbox_id, ImageId.new(), wait_s=0.2)
    assert not transfer.is_done
    # With another image the first upload ends.
    other = await source.sandboxes.store(spec.sandbox_id, ImageId.new(), wait_s=0.1)
    assert transfer.is_done
    await asyncio.wait_for(source.sandboxes.resume(spec.sandbox_id), 10)
    assert other.failure is not None
    assert other.failure.code == Unavailable.code
    running = await source.sandboxes.store(spec.sandbox_id, ImageId.new(), wait_s=5)
    assert running.failure is not None
    assert running.failure.code == InvalidState.code
    await source.sandboxes.pause(spec.sandbox_id)
    await source.sandboxes.store(spec.sandbox_id, ImageId.new(), wait_s=0.1)
    await asyncio.wait_for(source.sandboxes.remove(spec.sandbox_id), 10)
    await assert_nothing_left(source)


async def test_an_older_copy_gives_way_and_a_newer_one_does_not(source: Agent, target: Agent) -> None:
    spec = replace(await paused(source), generation=2)
    image_id = await stored(source, spec)
    assert_done(await target.sandboxes.adopt_stored(spec, image_id, wait_s=30))
    newer = replace(spec, generation=4)
    assert_done(await target.sandboxes.adopt_stored(newer, image_id, wait_s=30))
    with pytest.raises(StaleGeneration):
        await target.sandboxes.adopt_stored(replace(spec, generation=3), image_id, wait_s=30)
    assert target.sandboxes.inspect(spec.sandbox_id)[0].spec.generation == 4
    await assert_nothing_left(target)


async def test_an_older_copy_stays_until_the_store_has_what_replaces_it(
    source: Agent, target: Agent, store: MemoryStore
) -> None:
    spec = replace(await paused(source), generation=2)
    image_id = await stored(source, spec)
    assert_done(await target.sandboxes.adopt_stored(spec, image_id, wait_s=30))
    newer = replace(spec, generation=3)
    with pytest.raises(NotFound):
        await target.sandboxes.adopt_stored(newer, ImageId.new(), wait_s=30)
    whole = dict(store.images[image_id].chunks)
    store.images[image_id].chunks = {**whole, 0: bytes(len(whole[0]))}
    with pytest.raises(DamagedSnapshot):
        await target.sandboxes.adopt_stored(newer, image_id, wait_s=30)
    store.images[image_id].chunks = whole
    with pytest.raises(WrennError):
        await target.sandboxes.adopt_stored(
            replace(newer, shape=replace(spec.shape, vcpus=spec.shape.vcpus + 1)), image_id, wait_s=30
        )
    record, _ = target.sandboxes.inspect(spec.sandbox_id)
    assert (record.state, record.spec.generation) == (State.PAUSED, 2)
    await assert_resumes(target, spec)


async def test_a_base_that_others_may_use_is_not_replaced(
    source: Agent, target: Agent, store: MemoryStore
) -> None:
    spec = await paused(source)
    image_id = await stored(source, spec)
    digest = StateTable.decode(store.images[image_id].chunks[0]).base.digest
    taken = target.layout.bases / digest[:24]
    taken.mkdir(parents=True)
    other = json.dumps({"facts": {"kernel": "x"}, "restored": "other"})
    (taken / "manifest.json").write_text(other)
    (taken / "root").mkdir()
    transfer = await target.sandboxes.adopt_stored(spec, image_id, wait_s=30)
    assert transfer.failure is not None
    assert transfer.failure.code == DamagedSnapshot.code
    assert "another content" in transfer.failure.message
    await assert_nothing_left(target)


async def test_an_adopted_sandbox_is_on_disk_before_it_is_said_to_be_there(
    settings: Settings, other_settings: Settings, store: MemoryStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The agent that adopted it ended before it flushed the journal."""
    async with connected(settings, store) as source:
        spec = await paused(source)
        image_id = await stored(source, spec)
    async with connected(other_settings, store) as target:
        assert_done(await target.sandboxes.adopt_stored(spec, image_id, wait_s=30))
    flushed: set[str] = set()
    fsync = os.fsync

    def noting_fsync(fd: int) -> None:
        flushed.add(str(Path(f"/proc/self/fd/{fd}").readlink()))
        fsync(fd)

    async with connected(other_settings, store) as target:
        monkeypatch.setattr(os, "fsync", noting_fsync)
        assert_done(await target.sandboxes.adopt_stored(spec, image_id, wait_s=30))
        record, _ = target.sandboxes.inspect(spec.sandbox_id)
        folder = target.layout.sandbox(spec.sandbox_id)
        wanted = {folder, folder.parent, target.layout.snapshots / record.snapshot}
        assert {str(path) for path in wanted} <= flushed
        assert any(path.startswith(f"{folder}/") for path in flushed)


async def test_an_upload_that_waits_for_its_sandbox_holds_up_no_other(source: Agent) -> None:
    specs = [await paused(source) for _ in range(5)]
    async with AsyncExitStack() as held:
        for spec in specs[:4]:
            await held.enter_async_context(source.sandboxes.paused_disk(spec.sandbox_id))
        waiting = [
            await source.sandboxes.store(spec.sandbox_id, ImageId.new(), wait_s=0.1) for spec in specs[:4]
        ]
        assert not any(transfer.is_done for transfer in waiting)
        await stored(source, specs[4])
    for transfer in waiting:
        await transfer.wait(30)
        assert_done(transfer)


async def test_what_is_altered_in_the_store_is_refused(
    source: Agent, target: Agent, store: MemoryStore
) -> None:
    spec = await paused(source)
    image_id = await stored(source, spec)
    whole = dict(store.images[image_id].chunks)
    for index in (0, max(whole)):
        store.images[image_id].chunks = {**whole, index: bytes(len(whole[index]))}
        transfer = await target.sandboxes.adopt_stored(spec, image_id, wait_s=30)
        assert transfer.failure is not None
        assert target.sandboxes.list() == []
        await assert_nothing_left(target)
    # The state of another sandbox.
    store.images[image_id].chunks = whole
    other = replace(spec, sandbox_id=type(spec.sandbox_id).new())
    transfer = await target.sandboxes.adopt_stored(other, image_id, wait_s=30)
    assert transfer.failure is not None
    assert "another sandbox" in transfer.failure.message
    assert_done(await target.sandboxes.adopt_stored(spec, image_id, wait_s=30))


@pytest.mark.parametrize("point", POINTS)
async def test_an_agent_that_ends_during_an_adoption_forgets_or_has_it(
    settings: Settings, other_settings: Settings, store: MemoryStore, point: str
) -> None:
    """As after kill -9: the next agent gets the folder as it was at that moment."""
    async with connected(settings, store) as source:
        spec = await paused(source)
        image_id = await stored(source, spec)
    data_dir = other_settings.data_dir
    async with connected(other_settings, store) as target:
        arm_faults(f"agent.adopt.{point}=sleep:60")
        await target.sandboxes.adopt_stored(spec, image_id, wait_s=1)
        copied = await asyncio.create_subprocess_exec(
            "cp", "-a", "--", str(data_dir), str(data_dir.with_name("killed"))
        )
        assert await copied.wait() == 0
        arm_faults("")
    removed = await asyncio.create_subprocess_exec("rm", "-rf", "--", str(data_dir))
    assert await removed.wait() == 0
    data_dir.with_name("killed").rename(data_dir)
    async with connected(other_settings, store) as target:
        states = [record.state for record, _ in target.sandboxes.list()]
        assert states == ([State.PAUSED] if point == "after_paused" else [])
        await assert_nothing_left(target)
        assert_done(await target.sandboxes.adopt_stored(spec, image_id, wait_s=30))
        await assert_resumes(target, spec)
        assert snapshots.drafts(target.layout.snapshots) == []


@pytest.mark.parametrize("change", ["network", "disk", "snapshot", "pause"])
@pytest.mark.parametrize("waits", [False, True], ids=["under way", "waiting for its place"])
async def test_an_operation_does_not_wait_for_an_upload(
    source: Agent, store: MemoryStore, change: str, *, waits: bool
) -> None:
    spec = await paused(source)
    store.stalls = True
    others = [await paused(source) for _ in range(4)] if waits else []
    for other in others:
        await source.sandboxes.store(other.sandbox_id, ImageId.new(), wait_s=0.1)
    transfer = await source.sandboxes.store(spec.sandbox_id, ImageId.new(), wait_s=0.2)
    async with asyncio.timeout(DEADLINE_S):
        match change:
            case "network":
                settings = NetworkSettings(EgressPolicy(allow_internet=False), 3)
                record = await source.sandboxes.set_network(spec.sandbox_id, settings)
                assert record.network == settings
            case "disk":
                record = await source.sandboxes.set_disk(spec.sandbox_id, 10_240)
                assert record.disk_mb == 10_240
            case "snapshot":
                await source.sandboxes.ensure_snapshot(spec.sandbox_id, SnapshotId.new())
            case _:
                assert (await source.sandboxes.pause(spec.sandbox_id)).state is State.PAUSED
    if change == "pause":
        assert not transfer.is_done, "it changes nothing"
    else:
        assert transfer.failure is not None
        assert transfer.failure.code == Unavailable.code
    store.stalls = False
    await stored(source, spec)
