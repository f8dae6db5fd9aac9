"""Disks on device-mapper, in the host machine, without a VM: `disk_runs.py` has the tests."""

from __future__ import annotations

import pytest

from tests.kvm import disk_runs
from tests.kvm.host_machine import HostMachine

pytestmark = pytest.mark.asyncio(loop_scope="session")

_SLOW = {
    "the_devices_of_many_machines_leave_nothing",
    "what_waits_goes_on_whichever_step_of_taking_space_an_agent_was_killed_at",
}
"""Run by `make kvm-test` alone."""
_TIMEOUT_S = 300.0


@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=pytest.mark.all_kvm if name in _SLOW else ()) for name in disk_runs.TESTS],
)
async def test_that(host_machine: HostMachine, name: str) -> None:
    await host_machine.call("run_disk_test", name, timeout_s=_TIMEOUT_S)
