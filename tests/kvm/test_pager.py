"""Machines of Firecracker whose memory a page-fault server fills: those that continue from a pause."""

from __future__ import annotations

import asyncio
import json

import pytest

from tests.drivers.adapter import DriverAdapter
from tests.kvm.host_machine import HostMachine
from tests.kvm.remote_adapter import remote_adapter
from tests.kvm.running_machine import DRIVERS
from wrenn.storage.layers import new_layer_id
from wrenn.vm import DiskRef, ImageRef

pytestmark = pytest.mark.asyncio(loop_scope="session")

_DRIVER = "firecracker-kvm"
_TIMEOUT_S = 60.0


async def continued(driver: DriverAdapter, name: str) -> None:
    """A machine that was saved and continues; its memory is known by what is in it."""
    layer = new_layer_id()
    disk = DiskRef((layer,), driver.base)
    await driver.create_layer(layer, DiskRef((), driver.base))
    await driver.restore("first", disk, ImageRef(driver.base))
    await driver.run("first", "echo known >/dev/shm/file")
    await driver.suspend("first")
    snapshot = await driver.save("first", ImageRef(driver.base), (layer,))
    await driver.kill("first")
    await driver.release("first")
    await driver.restore(name, disk, ImageRef(driver.base), saved=snapshot)
    assert await driver.run(name, "cat /dev/shm/file") == "known\n"


async def kill_pager(host_machine: HostMachine, name: str) -> None:
    stored = await host_machine.shell(f"cat /data/{_DRIVER}/sandboxes/{name}/pager.json")
    pid = json.loads(stored)["pid"]
    assert await host_machine.shell(f"cat /proc/{pid}/comm") == "pager\n"
    await host_machine.shell(f"kill -9 {pid}")


@pytest.mark.parametrize("adopted", [False, pytest.param(True, marks=pytest.mark.all_kvm)])
async def test_a_machine_ends_when_its_page_fault_server_is_killed(
    host_machine: HostMachine, adopted: bool
) -> None:
    driver = await remote_adapter(host_machine, _DRIVER, DRIVERS[_DRIVER])
    try:
        await continued(driver, "served")
        if adopted:
            await driver.disconnect("served")
            await kill_pager(host_machine, "served")
            await driver.adopt("served")
        else:
            await kill_pager(host_machine, "served")
        async with asyncio.timeout(_TIMEOUT_S):
            await driver.wait_exit("served")
        assert not await driver.is_alive("served")
    finally:
        await driver.clean_up()
    assert await host_machine.shell("pgrep -x pager || true") == ""
