"""Time, faults and leftovers of virtual machines under KVM."""

from __future__ import annotations

import asyncio
import time

import pytest

from tests.drivers.adapter import DriverAdapter
from tests.kvm.host_machine import HostMachine
from wrenn.base.errors import AgentFailure
from wrenn.storage.layers import new_layer_id
from wrenn.vm import DiskRef, ImageRef

pytestmark = pytest.mark.asyncio(loop_scope="session")

Started = tuple[str, str]
_LEFTOVERS = (
    "ls /sys/fs/cgroup/wrenn-*/ -d | sort; ls -d /sys/fs/cgroup/wrenn-*/*/ | sort; losetup -l; dmsetup ls; ip netns | wc -l; "
    "grep -c . /proc/mounts; ls /data/*/layers /data/*/sandboxes /data/*/snapshots; ss -xlH | awk '{print $5}' | sort; "
    "pgrep -l 'firecracker|jailer|pager|qemu' | sort"
)


async def test_the_clock_of_a_restored_guest_is_right_and_never_goes_back(
    host_machine: HostMachine, driver: DriverAdapter, started: Started
) -> None:
    name, layer = started
    await driver.run(name, "cut -d' ' -f1 /proc/uptime >/dev/shm/uptime; date +%s.%N >/dev/shm/date")
    await driver.suspend(name)
    snapshot = await driver.save(name, ImageRef(driver.base), (layer,))
    await driver.kill(name)
    await asyncio.sleep(2)
    above = new_layer_id()
    await driver.create_layer(above, DiskRef((layer,), driver.base))
    await driver.restore("later", DiskRef((above, layer), driver.base), ImageRef(driver.base, snapshot))
    earliest = float(await host_machine.shell("date +%s.%N"))
    guest = float(await driver.run("later", "date +%s.%N"))
    latest = float(await host_machine.shell("date +%s.%N"))
    assert earliest - 0.5 < guest < latest + 0.5
    # Time stands still for a machine that is not running, but for the clock on the wall.
    before, after = (
        float(n)
        for n in (await driver.run("later", "cat /dev/shm/uptime; cut -d' ' -f1 /proc/uptime")).split()
    )
    assert after >= before
    assert guest - float(await driver.run("later", "cat /dev/shm/date")) >= 2
    assert "kvm-clock" in await driver.run(
        "later", "cat /sys/devices/system/clocksource/clocksource0/current_clocksource"
    )
    log = await driver.run("later", "dmesg")
    assert "soft lockup" not in log
    assert "unstable" not in log


async def test_machines_run_on_when_kvm_is_forbidden_and_new_ones_are_refused(
    host_machine: HostMachine, driver: DriverAdapter, started: Started
) -> None:
    if driver.name.startswith("firecracker"):
        pytest.skip("the jailer makes a device node of its own for each machine")
    layer = new_layer_id()
    await driver.create_layer(layer, DiskRef((), driver.base))
    disk = DiskRef((layer,), driver.base)
    await host_machine.shell("chmod 600 /dev/kvm")
    try:
        with pytest.raises(AgentFailure):
            await driver.restore("refused", disk, ImageRef(driver.base))
        assert "KVM" in await driver.log_tail("refused")
        assert "Permission denied" in await driver.log_tail("refused")
        assert not await driver.is_alive("refused")
        assert await driver.run(started[0], "echo on") == "on\n"
    finally:
        await host_machine.shell("chmod 660 /dev/kvm")
    await driver.restore("allowed", disk, ImageRef(driver.base))
    assert await driver.run("allowed", "echo on") == "on\n"


@pytest.mark.all_kvm
async def test_many_pauses_and_resumes_in_turn_lose_nothing(driver: DriverAdapter, started: Started) -> None:
    name, layer = started
    await driver.run(name, "head -c 3000000 /dev/urandom >/dev/shm/data; cp /dev/shm/data /root/data; sync")
    digests = await driver.run(name, "sha256sum /dev/shm/data /root/data")
    for turn in range(20):
        await driver.run(name, f"echo {turn} >>/root/turns")
        await driver.suspend(name)
        snapshot = await driver.save(name, ImageRef(driver.base), (layer,))
        await driver.kill(name)
        await driver.release(name)
        name = f"turn-{turn}"
        await driver.restore(name, DiskRef((layer,), driver.base), ImageRef(driver.base), saved=snapshot)
    assert await driver.run(name, "sha256sum /dev/shm/data /root/data") == digests
    assert (await driver.run(name, "cat /root/turns")).split() == [str(turn) for turn in range(20)]


@pytest.mark.all_kvm
async def test_machines_that_come_and_go_leave_nothing(
    host_machine: HostMachine, driver: DriverAdapter
) -> None:
    before = await host_machine.shell(_LEFTOVERS)
    for turn in range(8):
        names = [f"m{turn}-{number}" for number in range(4)]
        for name in names:
            layer = new_layer_id()
            await driver.create_layer(layer, DiskRef((), driver.base))
            await driver.start(name, DiskRef((layer,), driver.base), ImageRef(driver.base))
        await driver.lose(names[0])
        await driver.clean_up()
    deadline = time.monotonic() + 60
    # Slots are prepared again in the background.
    while (after := await host_machine.shell(_LEFTOVERS)) != before:
        assert time.monotonic() < deadline, f"before:\n{before}\nafter:\n{after}"
        await asyncio.sleep(1)
