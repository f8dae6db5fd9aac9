"""The host machine of the run, restored from a state in which its drivers have their bases."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import AsyncIterator, Generator
from pathlib import Path

import pytest
import pytest_asyncio

from tests.drivers import results
from tests.drivers.adapter import DriverAdapter
from tests.drivers.conftest import driver, new_name, started
from tests.kvm.cache import built, digest_of, locked
from tests.kvm.host_machine import HostMachine, boot, restore
from tests.kvm.images import host_images
from tests.kvm.remote_adapter import remote_adapter
from tests.kvm.sources import sources_archive

__all__ = ["driver", "new_name", "started"]

DRIVERS: dict[str, dict[str, str]] = {
    "firecracker-kvm": {"WRENN_VMM": "firecracker", "WRENN_FIRECRACKER_DIR": "/data/firecracker"},
    "qemu-kvm": {"WRENN_VMM": "qemu"},
}
"""Drivers of the host machine, with the settings that differ from the default."""

_SAMPLE = {
    "test_memory_and_programs_survive_a_save_and_a_restore",
    "test_a_switch_of_layers_freezes_what_was_written_and_changes_nothing_for_the_guest",
    "test_a_machine_outlives_its_agent_and_is_adopted",
    "test_a_machine_that_ends_by_itself_is_noticed",
    "test_a_restore_that_fails_leaves_no_process",
    "test_layers_are_listed_measured_and_removed",
}
"""Tests of tests/drivers that `make test` runs here too; `make kvm-test` runs all of them."""

_AGENT_TIMEOUT_S = 200.0

_machines: list[HostMachine] = []
_EVIDENCE = {
    "kernel of the host machine": "dmesg | tail -40",
    "processes of the host machine": "ps -eo pid,stat,etimes,args | tail -30",
    "logs of virtual machines": "tail -n 20 /data/*/sandboxes/*/vmm.log",
    "what is left over": "dmsetup ls; losetup -l; ip netns; ls /sys/fs/cgroup /data/*/layers /data/*/sandboxes",
}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """All tests here need root, and are slow: those of the driver suite that are not in `_SAMPLE` are marked."""
    here = Path(__file__).parent
    for item in items:
        if here in item.path.parents:
            function = getattr(item, "originalname", item.name)
            if item.path.name.startswith("test_driver_") and function not in _SAMPLE:
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
    images_dir = Path(os.environ.get("WRENN_IMAGES_DIR", "/var/lib/wrenn"))
    cache = images_dir / "test-host"
    folder = Path(tempfile.mkdtemp(prefix="wrenn-kvm-"))
    try:
        async with locked(cache):
            images = await host_images(cache, images_dir)
            sources = await sources_archive(cache)
            key = digest_of([images.digest, sources.parent.name, repr(DRIVERS)])

            async def make_saved_state(into: Path) -> None:
                machine = await boot(into, images, sources)
                try:
                    for name, environment in DRIVERS.items():
                        await remote_adapter(machine, name, environment)
                        await machine.call("prepare_agent", name, environment, timeout_s=_AGENT_TIMEOUT_S)
                    await machine.save()
                finally:
                    machine.kill()

            saved = await built(cache, "state", key, make_saved_state)
            machine = await restore(folder, saved, sources)
            _machines.append(machine)
            try:
                yield machine
            finally:
                machine.kill()
    finally:
        shutil.rmtree(folder)


@pytest_asyncio.fixture(scope="session", loop_scope="session", params=sorted(DRIVERS))
async def host(request: pytest.FixtureRequest, host_machine: HostMachine) -> DriverAdapter:
    """One driver with its base; overrides the fixture of tests/drivers."""
    return await remote_adapter(host_machine, request.param, DRIVERS[request.param])
