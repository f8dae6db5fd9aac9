"""An agent, a monitor or a page-fault server that is killed at any step of any verb, on Firecracker: nothing is lost and nothing left over.

Over the simulated driver and QEMU the same is tested with the control plane (tests/agent, tests/vm).
"""

from __future__ import annotations

import pytest

from tests.kvm.host_machine import HostMachine
from tests.kvm.running_machine import DRIVERS
from tests.vm import test_faults, test_snapshot_faults

pytestmark = pytest.mark.asyncio(loop_scope="session")

_DRIVER = "firecracker-kvm"
_SAMPLE = ("agent:resume.after_spawn", "pager:resume.after_ready")
_AGENT = (
    *(point.removeprefix("agent.") for point in test_faults.AGENT),
    *test_snapshot_faults.AGENT,
)
_MONITOR = (
    "create.after_spawn", "create.after_ready", "delete.after_journal", *test_snapshot_faults.VMM,
)  # fmt: skip
_PAGER = (
    "pause.after_hold", "pause.after_memory", "resume.after_spawn", "resume.after_ready", "snapshot.after_memory",
)  # fmt: skip
_ALL = (
    *(f"agent:{point}" for point in _AGENT),
    *(f"monitor:{point}" for point in _MONITOR),
    *(f"pager:{point}" for point in _PAGER),
)


@pytest.mark.parametrize(
    ("kills", "limit_s"),
    [
        pytest.param(_SAMPLE, 600, id="sample"),
        pytest.param(_ALL, 3600, id="all", marks=[pytest.mark.all_kvm, pytest.mark.timeout(4500)]),
    ],
)
async def test_killed_at_any_step(host_machine: HostMachine, kills: tuple[str, ...], limit_s: float) -> None:
    code, output = await host_machine.call(
        "run_fault_program", kills, _DRIVER, DRIVERS[_DRIVER], limit_s, timeout_s=limit_s + 30
    )
    print(output)
    assert code == 0, output
