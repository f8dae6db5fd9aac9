"""The host machine of the run, restored from a state in which its drivers have their bases."""

from __future__ import annotations

from collections.abc import AsyncIterator, Generator
from pathlib import Path

import pytest
import pytest_asyncio

from tests.drivers import results
from tests.drivers.adapter import DriverAdapter
from tests.drivers.conftest import driver, new_name, started
from tests.kvm.checkout import send_checkout
from tests.kvm.host_machine import HostMachine
from tests.kvm.remote_adapter import remote_adapter
from tests.kvm.running_machine import DRIVERS, running_host_machine

__all__ = ["driver", "new_name", "started"]

_SAMPLE = {
    "test_memory_and_programs_survive_a_save_and_a_restore",
    "test_a_switch_of_layers_freezes_what_was_written_and_changes_nothing_for_the_guest",
    "test_a_machine_outlives_its_agent_and_is_adopted",
    "test_a_machine_that_ends_by_itself_is_noticed",
    "test_a_restore_that_fails_leaves_no_process",
    "test_layers_are_listed_measured_and_removed",
}
"""Tests of tests/drivers that `make test` runs here too; `make kvm-test` runs all of them."""
_SAMPLE_OF_QEMU = {
    "test_memory_and_programs_survive_a_save_and_a_restore",
    "test_a_machine_outlives_its_agent_and_is_adopted",
}
"""The rest does not depend on the processor: on QEMU without KVM, tests/drivers has it in `make test`."""

_machines: list[HostMachine] = []
_EVIDENCE = {
    "kernel of the host machine": "dmesg | tail -40",
    "processes of the host machine": "ps -eo pid,stat,etimes,args | tail -30",
    "logs of virtual machines": "tail -n 20 /data/*/sandboxes/*/vmm.log",
    "what is left over": "dmsetup ls; losetup -l; ip netns; ls /sys/fs/cgroup /data/*/layers /data/*/sandboxes",
}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """All tests here need root, and are slow: those of the driver suite that are not in the sample are marked."""
    here = Path(__file__).parent
    for item in items:
        if here in item.path.parents:
            function = getattr(item, "originalname", item.name)
            sample = _SAMPLE_OF_QEMU if "qemu-kvm" in item.name else _SAMPLE
            if item.path.name.startswith("test_driver_") and function not in sample:
                item.add_marker(pytest.mark.all_kvm)
            item.add_marker(pytest.mark.vm)
            item.add_marker(pytest.mark.root)
            # The first one waits until everything is built.
            item.add_marker(pytest.mark.timeout(900))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Add to the report of a failure what the host machine shows, and record which driver passes which test."""
    report = yield
    if item.path.name.startswith("test_driver_"):
        results.record(item, report)
    if report.failed and _machines and "host_machine" in getattr(item, "fixturenames", ()):
        machine = _machines[-1]
        report.sections.append(("console of the host machine", machine.console_tail()))
        for name, script in _EVIDENCE.items():
            report.sections.append((name, machine.shell_now(script)))
    return report


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def host_machine() -> AsyncIterator[HostMachine]:
    """The running machine. What is missing is built first: minutes, once for these sources."""
    async with running_host_machine() as machine:
        _machines.append(machine)
        yield machine


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def checkout(host_machine: HostMachine) -> HostMachine:
    """The host machine, with the whole checkout in it."""
    await send_checkout(host_machine)
    return host_machine


@pytest_asyncio.fixture(scope="session", loop_scope="session", params=sorted(DRIVERS))
async def host(request: pytest.FixtureRequest, host_machine: HostMachine) -> DriverAdapter:
    """One driver with its base; overrides the fixture of tests/drivers."""
    return await remote_adapter(host_machine, request.param, DRIVERS[request.param])
