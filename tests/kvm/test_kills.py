"""An agent, a monitor or a page-fault server that is killed at any step of any verb, on Firecracker: nothing is lost and nothing left over.

Over the simulated driver and QEMU the same is tested with the control plane (tests/agent, tests/vm).
"""

from __future__ import annotations

import pytest

from tests.kvm.checkout import run_python
from tests.kvm.host_machine import HostMachine
from tests.kvm.running_machine import DRIVERS
from tests.vm import test_faults, test_snapshot_faults

pytestmark = pytest.mark.asyncio(loop_scope="session")

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
async def test_killed_at_any_step(checkout: HostMachine, kills: tuple[str, ...], limit_s: float) -> None:
    environment = {
        **DRIVERS["firecracker-kvm"],
        "WRENN_DATA_DIR": "/data/killed",
        "WRENN_BASES_OF": "/data/firecracker-kvm",
        "WRENN_READY_SLOTS": "2",
        "WRENN_SAMPLE_INTERVAL_S": "0",
    }
    code, output = await run_python(
        checkout, f"-m tests.kvm.fault_program {' '.join(kills)}", environment, timeout_s=limit_s
    )
    print(output)
    assert code == 0, output
