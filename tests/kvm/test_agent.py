"""The whole agent on a host with KVM: tests of tests/vm, run in the host machine."""

from __future__ import annotations

import pytest

from tests.kvm.host_machine import HostMachine
from tests.kvm.running_machine import DRIVERS
from tests.vm import test_disk_only, test_pause, test_sandboxes, test_snapshots

pytestmark = pytest.mark.asyncio(loop_scope="session")

_SAMPLE = (test_sandboxes.test_sandboxes_survive_the_agent, "firecracker-kvm")
"""`make test` has it on QEMU too, without KVM: in tests/vm."""
_TESTS = (
    test_sandboxes.test_sandboxes_survive_the_agent,
    test_disk_only.test_a_sandbox_that_was_paused_without_memory_boots_with_its_files,
    test_disk_only.test_copies_of_a_snapshot_without_memory_boot_and_the_sandbox_goes_on,
    test_pause.test_processes_memory_and_files_survive,
    test_sandboxes.test_a_sandbox_runs_a_python_program,
    test_sandboxes.test_clones_have_their_own_identity,
    test_sandboxes.test_the_clock_of_a_clone_is_right,
    test_sandboxes.test_files_go_both_ways_unchanged,
    test_sandboxes.test_removing_twice_is_the_same_as_removing_once,
    test_sandboxes.test_a_killed_vmm_makes_the_sandbox_lost,
    test_sandboxes.test_a_vm_that_died_without_the_agent_is_lost_and_can_be_removed,
    test_pause.test_the_clock_is_right_after_a_pause_and_timers_did_not_run,
    test_pause.test_each_pause_leaves_one_snapshot_and_frees_the_one_before,
    test_pause.test_paused_sandboxes_survive_the_agent,
    test_pause.test_a_damaged_snapshot_is_refused_and_never_restored,
    test_snapshots.test_clones_of_one_snapshot_have_their_own_identity,
    test_snapshots.test_a_snapshot_of_a_paused_sandbox_leaves_it_paused,
)
_TIMEOUT_S = 300.0


@pytest.mark.parametrize(
    ("function", "driver_name"),
    [
        pytest.param(
            function,
            driver,
            id=f"{driver}-{function.__name__}",
            marks=() if (function, driver) == _SAMPLE else pytest.mark.all_kvm,
        )
        for driver in sorted(DRIVERS)
        for function in _TESTS
    ],
)
async def test_of_the_agent(host_machine: HostMachine, function: object, driver_name: str) -> None:
    module, name = function.__module__, function.__name__  # type: ignore[attr-defined]
    await host_machine.call(
        "run_agent_test", module, name, driver_name, DRIVERS[driver_name], timeout_s=_TIMEOUT_S
    )
