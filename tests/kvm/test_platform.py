"""The whole platform on Firecracker, in the host machine: the command, control plane, PostgreSQL and agent are real programs."""

from __future__ import annotations

import pytest

from tests.kvm.checkout import run_python
from tests.kvm.host_machine import HostMachine
from tests.kvm.running_machine import DRIVERS

pytestmark = pytest.mark.asyncio(loop_scope="session")

_FIRECRACKER = DRIVERS["firecracker-kvm"]
_DATA = "/data/up"
_LEFT_OVER = "dmsetup ls; losetup -l; ip netns; ls -d /sys/fs/cgroup/wrenn-*/*/ 2>/dev/null; pgrep -lx 'firecracker|jailer|pager'; grep -c . /proc/mounts"


@pytest.mark.all_kvm
@pytest.mark.timeout(1800)
async def test_up_runs_the_main_job_on_firecracker_and_down_leaves_nothing(checkout: HostMachine) -> None:
    before = await checkout.shell(_LEFT_OVER)

    async def wrenn(arguments: str, timeout_s: float = 900) -> str:
        environment = {**_FIRECRACKER, "WRENN_DATA_DIR": _DATA}
        code, output = await run_python(
            checkout, f"-m wrenn.cli.main {arguments}", environment, timeout_s=timeout_s
        )
        assert code == 0, (
            f"{arguments}:\n{output}\n{await checkout.shell(f'tail -n 30 {_DATA}/run/*.log || true')}"
        )
        return output

    try:
        output = await wrenn("up --demo")
        assert "Hello from Python" in output
        print(output)
        assert "firecracker" in await checkout.shell(f"cat {_DATA}/vmm.json")
        assert "firecracker 1." in await wrenn("doctor")
    finally:
        await wrenn("down")
    assert await checkout.shell(_LEFT_OVER) == before
