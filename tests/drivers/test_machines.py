"""Machines: restore, freeze, save, switch of layers, adoption, and their end at any moment."""

from __future__ import annotations

import asyncio

import pytest

from tests.drivers.adapter import DriverAdapter
from wrenn.base.errors import AgentFailure
from wrenn.base.units import GIB, KIB, MIB
from wrenn.storage.errors import DamagedSnapshot
from wrenn.storage.layers import new_layer_id
from wrenn.vm import DiskRef, ImageRef

pytestmark = pytest.mark.asyncio(loop_scope="session")

COUNT = (
    "i=0; while true; do i=$((i+1)); echo $i >/dev/shm/new; mv /dev/shm/new /dev/shm/count; sleep 0.02; done"
)

Started = tuple[str, str]


async def counts_on(driver: DriverAdapter, name: str) -> None:
    """Return when the counter in the guest has gone on."""
    wait = "until [ -s /dev/shm/count ]; do sleep 0.02; done; a=$(cat /dev/shm/count); "
    await driver.run(name, wait + "until [ $(cat /dev/shm/count) -gt $a ]; do sleep 0.02; done")


async def restored(
    driver: DriverAdapter, name: str, snapshot: str, *frozen: str, over: ImageRef | None = None
) -> str:
    """A machine of a snapshot, with a layer of its own over these frozen ones; returns the layer."""
    layer = new_layer_id()
    await driver.create_layer(layer, DiskRef(frozen, driver.base))
    disk = DiskRef((layer, *frozen), driver.base)
    if over is not None:
        await driver.restore(name, disk, over, saved=snapshot)
    else:
        await driver.restore(name, disk, ImageRef(driver.base, snapshot))
    return layer


async def saved(driver: DriverAdapter, name: str, *layers: str) -> str:
    await driver.suspend(name)
    return await driver.save(name, ImageRef(driver.base), layers)


async def test_a_base_is_whole_and_stays_the_same(driver: DriverAdapter, started: Started) -> None:
    assert await driver.base_is_whole()
    before = await driver.base_digest()
    await driver.run(started[0], "echo x >/root/file; sync")
    assert await driver.base_digest() == before


async def test_a_restored_machine_runs_programs_and_says_which_layer_it_writes(
    driver: DriverAdapter, started: Started
) -> None:
    name, layer = started
    assert await driver.run(name, "echo hello") == "hello\n"
    assert await driver.written_layer(name) == layer
    assert await driver.is_alive(name)


async def test_machines_of_one_base_do_not_see_each_others_files(
    driver: DriverAdapter, started: Started
) -> None:
    second = new_layer_id()
    await driver.create_layer(second, DiskRef((), driver.base))
    await driver.restore("second", DiskRef((second,), driver.base), ImageRef(driver.base))
    await driver.run(started[0], "echo first >/root/whose")
    await driver.run("second", "echo second >/root/whose")
    assert await driver.run(started[0], "cat /root/whose") == "first\n"
    assert await driver.run("second", "cat /root/whose") == "second\n"


async def test_a_suspended_machine_stops_and_an_unsuspended_one_continues(
    driver: DriverAdapter, started: Started
) -> None:
    name, _ = started
    await driver.run(name, f"(setsid sh -c '{COUNT}' >/dev/null 2>&1 </dev/null &)")
    await counts_on(driver, name)
    for _ in range(2):
        await driver.suspend(name)
    calling = asyncio.create_task(counts_on(driver, name))
    await asyncio.sleep(0.4)
    assert not calling.done(), "a program went on while its machine was frozen"
    for _ in range(2):
        await driver.unsuspend(name)
    await calling
    await counts_on(driver, name)


async def test_files_survive_a_save_and_a_restore(driver: DriverAdapter, started: Started) -> None:
    name, layer = started
    await driver.run(
        name, "head -c 300000 /dev/urandom >/root/data; md5sum </root/data >/root/sum; mkdir -m 700 /root/d"
    )
    snapshot = await saved(driver, name, layer)
    await driver.check_snapshot(snapshot)
    await driver.kill(name)
    await restored(driver, "again", snapshot, layer)
    assert await driver.run("again", "md5sum </root/data | cmp - /root/sum; stat -c %a /root/d") == "700\n"


@pytest.mark.needs("keeps_memory")
async def test_memory_and_programs_survive_a_save_and_a_restore(
    driver: DriverAdapter, started: Started
) -> None:
    name, layer = started
    await driver.run(
        name, f"(setsid sh -c '{COUNT}' >/dev/null 2>&1 </dev/null &) ; sleep 0.2; echo held >/dev/shm/held"
    )
    snapshot = await saved(driver, name, layer)
    await driver.kill(name)
    # As a clone, which runs on the snapshot's image, and as the machine itself, which goes on over the base's.
    for again, over in (("clone", None), ("itself", ImageRef(driver.base))):
        await restored(driver, again, snapshot, layer, over=over)
        assert await driver.run(again, "cat /dev/shm/held") == "held\n"
        await counts_on(driver, again)


async def test_clones_of_a_snapshot_are_independent_and_can_be_saved(
    driver: DriverAdapter, started: Started
) -> None:
    name, layer = started
    await driver.run(name, "echo parent >/root/one")
    snapshot = await saved(driver, name, layer)
    await driver.kill(name)
    layers = {clone: await restored(driver, clone, snapshot, layer) for clone in ("left", "right")}
    for clone in layers:
        await driver.run(clone, f"echo {clone} >/root/two; sync")
    await driver.suspend("left")
    below = (layers["left"], layer)
    second = await driver.save("left", ImageRef(driver.base, snapshot), below)
    await driver.kill("left")
    await restored(driver, "grandchild", second, *below)
    assert await driver.run("grandchild", "cat /root/one /root/two") == "parent\nleft\n"
    assert await driver.run("right", "cat /root/two") == "right\n"


async def test_a_machine_can_continue_after_a_save(driver: DriverAdapter, started: Started) -> None:
    name, _ = started
    await driver.run(name, "echo before >/root/file")
    await driver.suspend(name)
    await driver.save(name, ImageRef(driver.base), ())
    await driver.unsuspend(name)
    assert await driver.run(name, "cat /root/file") == "before\n"


async def test_damage_of_a_snapshot_is_found(driver: DriverAdapter, started: Started) -> None:
    snapshot = await saved(driver, *started)
    await driver.check_snapshot(snapshot)
    await driver.damage_snapshot(snapshot)
    with pytest.raises(DamagedSnapshot):
        await driver.check_snapshot(snapshot)


@pytest.mark.parametrize("frozen", [True, False], ids=["frozen", "running"])
async def test_a_switch_of_layers_freezes_what_was_written_and_changes_nothing_for_the_guest(
    driver: DriverAdapter, started: Started, frozen: bool
) -> None:
    name, first = started
    await driver.run(name, "echo one >/root/file; sync")
    second = new_layer_id()
    await driver.create_layer(second, DiskRef((first,), driver.base))
    if frozen:
        await driver.suspend(name)
    await driver.switch_layer(name, second)
    if frozen:
        await driver.unsuspend(name)
    assert await driver.written_layer(name) == second
    seal = await driver.seal_layer(first)
    assert (
        await driver.run(name, "cat /root/file; echo two >/root/file; sync; cat /root/file") == "one\ntwo\n"
    )
    await driver.check_layer(seal)
    # A second time: over what is written now.
    third = new_layer_id()
    await driver.create_layer(third, DiskRef((second, first), driver.base))
    await driver.switch_layer(name, third)
    assert await driver.written_layer(name) == third
    await driver.check_layer(seal)
    assert await driver.run(name, "cat /root/file") == "two\n"


async def test_a_snapshot_is_what_the_disk_was_before_the_switch(
    driver: DriverAdapter, started: Started
) -> None:
    name, first = started
    await driver.run(name, "echo one >/root/file; sync")
    second = new_layer_id()
    await driver.create_layer(second, DiskRef((first,), driver.base))
    await driver.suspend(name)
    snapshot = await driver.save(name, ImageRef(driver.base), ())
    await driver.switch_layer(name, second)
    await driver.unsuspend(name)
    await driver.run(name, "echo two >/root/file; sync")
    await restored(driver, "clone", snapshot, first)
    assert await driver.run("clone", "cat /root/file") == "one\n"
    assert await driver.run(name, "cat /root/file") == "two\n"


async def test_a_switch_to_a_layer_that_is_missing_fails_and_changes_nothing(
    driver: DriverAdapter, started: Started
) -> None:
    name, layer = started
    with pytest.raises((AgentFailure, OSError)):
        await driver.switch_layer(name, new_layer_id())
    await driver.unsuspend(name)
    assert await driver.written_layer(name) == layer
    assert await driver.run(name, "echo on") == "on\n"


@pytest.mark.needs("merges_layers")
async def test_layers_are_merged_while_the_machine_runs(driver: DriverAdapter, started: Started) -> None:
    name, first = started
    await driver.run(name, "echo one >/root/file; sync")
    second = new_layer_id()
    await driver.create_layer(second, DiskRef((first,), driver.base))
    await driver.switch_layer(name, second)
    await driver.merge_layers(name)
    await driver.run(name, "echo more >/root/more; sync")
    snapshot = await saved(driver, name, second)
    await driver.kill(name)
    await driver.remove_layer(first)
    await restored(driver, "again", snapshot, second)
    assert await driver.run("again", "cat /root/file /root/more") == "one\nmore\n"


async def test_a_machine_outlives_its_agent_and_is_adopted(driver: DriverAdapter, started: Started) -> None:
    name, layer = started
    await driver.run(name, "echo here >/dev/shm/here")
    await driver.disconnect(name)
    assert await driver.adopt(name)
    assert await driver.run(name, "cat /dev/shm/here") == "here\n"
    assert await driver.written_layer(name) == layer
    await driver.suspend(name)
    # A former agent may have ended while it stood still.
    assert await driver.adopt(name)
    assert not await driver.maintain(name, may_unsuspend=False)
    assert await driver.maintain(name, may_unsuspend=True)
    assert not await driver.maintain(name, may_unsuspend=True)
    assert await driver.run(name, "echo on") == "on\n"
    await driver.kill(name)
    assert not await driver.adopt(name)


async def test_a_machine_without_a_journal_is_found_by_its_name(driver: DriverAdapter) -> None:
    layer = new_layer_id()
    await driver.create_layer(layer, DiskRef((), driver.base))
    await driver.start("unknown", DiskRef((layer,), driver.base), ImageRef(driver.base))
    assert "unknown" in await driver.confined()
    for _ in range(2):
        await driver.release("unknown")
    assert "unknown" not in await driver.confined()
    assert not await driver.is_alive("unknown")


async def test_a_restore_that_fails_leaves_no_process(driver: DriverAdapter) -> None:
    disk = DiskRef((new_layer_id(),), driver.base)
    with pytest.raises((AgentFailure, OSError)):
        await driver.start("failed", disk, ImageRef(driver.base))
    await driver.release("failed")
    assert "failed" not in await driver.confined()


async def assert_ended(driver: DriverAdapter, name: str) -> None:
    """Everything that a machine that has ended must still do."""
    await driver.wait_exit(name)
    assert not await driver.is_alive(name)
    for call in (driver.suspend(name), driver.unsuspend(name), driver.written_layer(name)):
        with pytest.raises(AgentFailure):
            await call
    for _ in range(2):
        await driver.kill(name)
        await driver.disconnect(name)
    await driver.log_tail(name)
    await driver.console(name)
    assert not await driver.adopt(name)


async def test_a_machine_that_ends_by_itself_is_noticed(driver: DriverAdapter, started: Started) -> None:
    waiting = asyncio.create_task(driver.wait_exit(started[0]))
    await asyncio.sleep(0.05)
    assert not waiting.done()
    await driver.lose(started[0])
    await waiting
    await assert_ended(driver, started[0])


@pytest.mark.parametrize("at", ["running", "frozen", "memory", "switch"])
async def test_a_machine_that_is_killed_at_any_moment_is_gone(
    driver: DriverAdapter, started: Started, at: str
) -> None:
    name, layer = started
    if at != "running":
        await driver.suspend(name)
    if at == "memory":
        with pytest.raises(AgentFailure):
            await driver.save(name, ImageRef(driver.base), (layer,), kill_at=at)
    if at == "switch":
        second = new_layer_id()
        await driver.create_layer(second, DiskRef((layer,), driver.base))
        switching = asyncio.create_task(driver.switch_layer(name, second))
        await driver.kill(name)
        await asyncio.wait({switching})
        switching.exception()
    await driver.kill(name)
    await assert_ended(driver, name)
    # What it wrote is still there.
    again = new_layer_id()
    await driver.create_layer(again, DiskRef((layer,), driver.base))
    assert layer in await driver.layer_ids()


async def test_log_and_console_are_bounded(driver: DriverAdapter, started: Started) -> None:
    name, _ = started
    await driver.fill_log(name, 2 * MIB)
    assert len(await driver.log_tail(name)) <= 4 * KIB
    console = await driver.console(name)
    assert len(console) <= 64 * KIB
    assert console[-100:] in await driver.console(name), "reading it takes nothing away"
    await driver.maintain(name, may_unsuspend=True)
    assert await driver.log_b(name) <= MIB
    await driver.fill_log(name, 100)
    assert await driver.log_b(name) <= MIB


async def test_enlarging_a_disk_is_idempotent(driver: DriverAdapter, started: Started) -> None:
    name, _ = started
    for _ in range(2):
        await driver.grow_disk(name, 6 * GIB)
    assert await driver.run(name, "echo on >/root/file; sync; cat /root/file") == "on\n"


@pytest.mark.needs("sized_disks")
async def test_the_guest_sees_that_its_disk_is_larger(driver: DriverAdapter, started: Started) -> None:
    name, _ = started
    await driver.grow_disk(name, 6 * GIB)
    device = "d=$(stat -c %Hd:%Ld /); until [ $(cat /sys/dev/block/$d/size) = 12582912 ]; do sleep 0.01; done"
    await driver.run(name, device)
