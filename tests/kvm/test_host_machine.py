"""The host machine has what tests of hypervisors need: without this, the other tests here would prove nothing."""

from __future__ import annotations

import time

import pytest

from tests.drivers.adapter import DriverAdapter
from tests.kvm.host_machine import HostMachine
from tests.kvm.remote_adapter import remote_adapter
from tests.kvm.running_machine import DRIVERS

pytestmark = pytest.mark.asyncio(loop_scope="session")


async def test_the_host_machine_has_kvm_device_mapper_and_page_faults_for_programs(
    host_machine: HostMachine,
) -> None:
    assert await host_machine.shell("cat /sys/module/kvm_amd/parameters/npt") in ("Y\n", "1\n")
    assert "snapshot" in await host_machine.shell("dmsetup targets")
    assert "userfaultfd" in await host_machine.shell("cat /proc/misc")
    assert await host_machine.shell("stat -c '%G %a' /dev/kvm") == "kvm 660\n"


async def test_its_clock_is_right_after_a_restore(host_machine: HostMachine) -> None:
    assert abs(float(await host_machine.shell("date +%s.%N")) - time.time()) < 5


@pytest.mark.parametrize("name", sorted(DRIVERS))
async def test_its_drivers_use_kvm(host_machine: HostMachine, name: str) -> None:
    adapter = await remote_adapter(host_machine, name, DRIVERS[name])
    assert adapter.facts["accelerator"] == "kvm"  # type: ignore[attr-defined]
    vmm = adapter.facts["vmm"].partition(" ")[0]  # type: ignore[attr-defined]
    assert name == f"{vmm}-kvm"
    if vmm == "qemu":
        choice = await host_machine.shell(f"cat /data/{name}/accelerator.json")
        assert '"kvm"' in choice


async def test_a_guest_runs_on_the_processor_and_not_in_emulation(
    driver: DriverAdapter, started: tuple[str, str]
) -> None:
    assert "KVM" in await driver.run(
        started[0], "cat /sys/class/dmi/id/sys_vendor; dmesg | grep -i 'hypervisor detected'"
    )
