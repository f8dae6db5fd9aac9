"""The whole platform on Firecracker, in the host machine: the command, PostgreSQL, control plane and agent as programs of their own."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

import pytest

from tests.kvm.checkout import run_python
from tests.kvm.host_machine import HostMachine
from tests.kvm.running_machine import DRIVERS

pytestmark = [
    pytest.mark.asyncio(loop_scope="session"),
    pytest.mark.all_kvm,
    pytest.mark.timeout(4500),
]

_DATA = "/data/up"
_ENVIRONMENT = {
    **DRIVERS["firecracker-kvm"],
    "WRENN_DATA_DIR": _DATA,
    # Python is slow there.
    "WRENN_READY_SLOTS": "2",
    "WRENN_SAMPLE_INTERVAL_S": "0",
}
_LEFT_OVER = (
    "dmsetup ls | sort; losetup -nO BACK-FILE | sort; ip netns | sort; ls -d /sys/fs/cgroup/wrenn-*/*/ 2>/dev/null; "
    "pgrep -lx 'firecracker|jailer|pager|postgres'; grep -c . /proc/mounts"
)
_PAUSES = 20
_TIMEOUT_S = 2400.0
_WRENN = "-m wrenn.cli.main"
_NONE: Mapping[str, str] = MappingProxyType({})


async def _run(
    machine: HostMachine,
    arguments: str,
    environment: Mapping[str, str] = _NONE,
    *,
    codes: tuple[int, ...] = (0,),
) -> str:
    code, output = await run_python(machine, arguments, {**_ENVIRONMENT, **environment}, timeout_s=_TIMEOUT_S)
    print(output)
    if code not in codes:
        logs = await machine.shell(f"tail -n 20 {_DATA}/run/*.log | cut -c 1-600; true")
        pytest.fail(f"{arguments} ended with {code}:\n{output}\n{logs}")
    return output


async def test_the_main_job_and_twenty_pauses_run_on_firecracker_and_leave_nothing(
    checkout: HostMachine,
) -> None:
    before = await checkout.shell(_LEFT_OVER)
    try:
        output = await _run(checkout, f"{_WRENN} up --demo")
        assert "Hello from Python" in output
        assert "firecracker" in await checkout.shell(f"cat {_DATA}/vmm.json")
        url_and_key = await checkout.shell(f'. {_DATA}/env; echo "$WRENN_BASE_URL $WRENN_API_KEY"')
        url, key = url_and_key.split()
        output = await _run(
            checkout,
            f"-m tests.kvm.pause_program {_PAUSES}",
            {"WRENN_BASE_URL": url, "WRENN_API_KEY": key},
        )
        assert output.count("ok ") == _PAUSES
        # The kernel of this machine may lack the fix of some vulnerability, which the doctor reports.
        report = await _run(checkout, f"{_WRENN} doctor", codes=(0, 1))
        assert "firecracker 1." in report
        assert "Nothing is left over." in report
    finally:
        await _run(checkout, f"{_WRENN} down")
    assert await checkout.shell(_LEFT_OVER) == before
