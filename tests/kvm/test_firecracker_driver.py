"""What only Firecracker's driver has: the jail of each machine, metadata for its guest, and a VMM that is killed while it starts."""

from __future__ import annotations

import asyncio
import base64
import json
import re
import time

import pytest
import pytest_asyncio

from tests.drivers.adapter import DriverAdapter
from tests.kvm import firecracker_agent_runs
from tests.kvm.host_machine import HostMachine
from tests.kvm.remote_adapter import remote_adapter
from tests.kvm.running_machine import DRIVERS
from wrenn.base.errors import AgentFailure
from wrenn.storage.layers import new_layer_id
from wrenn.vm import DiskRef, ImageRef

pytestmark = pytest.mark.asyncio(loop_scope="session")

_DRIVER = "firecracker-kvm"
_PROCESSES = "pgrep -x firecracker; pgrep -x jailer; true"
_LEFT_OVER = f"{_PROCESSES}; dmsetup ls; losetup -l; ls -d /sys/fs/cgroup/wrenn-*/*/ 2>/dev/null; true"


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def host(host_machine: HostMachine) -> DriverAdapter:
    """The one driver that these tests are for."""
    return await remote_adapter(host_machine, _DRIVER, DRIVERS[_DRIVER])


_READ_METADATA = r"""
request() {
    exec 3<>/dev/tcp/169.254.169.254/80
    printf '%s HTTP/1.1\r\nHost: metadata\r\nAccept: application/json\r\n%s\r\nConnection: close\r\n\r\n' "$1" "$2" >&3
    timeout 5 cat <&3
    exec 3>&-
}
token=$(request 'PUT /latest/api/token' 'X-metadata-token-ttl-seconds: 60' | tail -n 1)
request 'GET /' 'X-none: 1' | head -n 1
request 'GET /' "X-metadata-token: $token" | tail -n 1
"""


async def test_a_guest_reads_its_ids_with_a_token_only(
    driver: DriverAdapter, started: tuple[str, str]
) -> None:
    script = base64.b64encode(_READ_METADATA.encode()).decode()
    output = await driver.run(started[0], f"echo {script} | base64 -d | bash")
    refused, content = output.splitlines()
    assert "401" in refused
    assert json.loads(content) == {"sandbox_id": started[0], "template_id": "minimal"}


@pytest.mark.parametrize(
    "function",
    [
        firecracker_agent_runs.machines_that_end_by_themselves_leave_nothing_while_the_agent_runs,
        # Of the recorded order, the sample has the figures of test_firecracker.py.
        pytest.param(
            firecracker_agent_runs.a_resume_does_not_wait_for_what_the_one_before_needed,
            marks=pytest.mark.all_kvm,
        ),
        # Of a full host, it has the disks of test_disks.py.
        pytest.param(
            firecracker_agent_runs.a_guest_whose_host_is_full_waits_and_loses_nothing,
            marks=pytest.mark.all_kvm,
        ),
    ],
    ids=lambda function: function.__name__,
)
async def test_of_an_agent(host_machine: HostMachine, function: object) -> None:
    module, name = function.__module__, function.__name__  # type: ignore[attr-defined]
    await host_machine.call("run_agent_test", module, name, _DRIVER, DRIVERS[_DRIVER], timeout_s=400)


async def test_each_machine_is_in_a_jail_of_its_own(
    host_machine: HostMachine, driver: DriverAdapter, started: tuple[str, str]
) -> None:
    (pid,) = (await host_machine.shell("pgrep -x firecracker")).split()
    threads = (await host_machine.shell(f"cat /proc/{pid}/task/*/status")).split("Name:")[1:]
    assert len(threads) >= 3
    for thread in threads:
        (uid,) = set(re.findall(r"^Uid:\s+(\d+)\s+(?:\1\s*){3}$", thread, re.MULTILINE))
        assert int(uid) > 1_900_000_000
        assert re.findall(r"^Seccomp:\s+2$", thread, re.MULTILINE)
        assert re.findall(r"^NoNewPrivs:\s+1$", thread, re.MULTILINE)
        assert re.findall(r"^CapEff:\s+0+$", thread, re.MULTILINE)
    for kind in ("mnt", "pid", "net", "ipc", "uts"):
        inside, outside = (
            await host_machine.shell(f"readlink /proc/{pid}/ns/{kind} /proc/self/ns/{kind}")
        ).split()
        assert inside != outside, kind
    assert (await host_machine.shell(f"cat /proc/{pid}/cgroup")).strip().endswith(f"/{started[0]}")
    # Its memory image is shared with others, so it must not be able to change it.
    links, mode, owner = (await host_machine.shell(f"stat -c '%h %a %u' /proc/{pid}/root/memory")).split()
    assert (int(links) >= 2, mode, owner) == (True, "444", "0")


async def test_a_vmm_that_is_killed_while_it_starts_leaves_nothing(
    host_machine: HostMachine, driver: DriverAdapter
) -> None:
    before = await host_machine.shell(_LEFT_OVER)
    layer = new_layer_id()
    await driver.create_layer(layer, DiskRef((), driver.base))
    starting = asyncio.create_task(
        driver.start("killed", DiskRef((layer,), driver.base), ImageRef(driver.base))
    )
    killing = "until pkill -9 -x 'firecracker|jailer'; do :; done"
    await host_machine.shell(f'timeout 60 sh -c "{killing}"')
    with pytest.raises(AgentFailure):
        await starting
    await driver.release("killed")
    await driver.remove_layer(layer)
    deadline = time.monotonic() + 30
    while (after := await host_machine.shell(_LEFT_OVER)) != before:
        assert time.monotonic() < deadline, f"before:\n{before}\nafter:\n{after}"
        await asyncio.sleep(1)
