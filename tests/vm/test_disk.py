"""The size of a sandbox's disk: chosen at create, kept over pause, snapshot and restore, and part of what it may take."""

from __future__ import annotations

import asyncio
import subprocess
from pathlib import Path

import pytest

from tests.vm.kit import created, new_spec, output, sh
from wrenn.agent.confinement import file_limit_b
from wrenn.agent.sandboxes import RunningSandbox
from wrenn.agent.wiring import Agent
from wrenn.base.errors import InvalidRequest
from wrenn.base.ids import SnapshotId
from wrenn.base.units import GIB, MIB
from wrenn.linux.spawn import file_limit_of
from wrenn.vm.qemu import Qcow2Disks, QemuBases

LARGE_MB = 20_480


async def size_mb(sandbox: RunningSandbox) -> int:
    """Of the root file system, as its programs see it, with what ext4 takes for itself."""
    blocks = await output(sandbox, "stat -f -c '%b %S' /")
    count, size = map(int, blocks.split())
    return count * size // 2**20


async def test_a_larger_disk_is_there_from_the_first_command_on_and_stays(agent: Agent) -> None:
    sandboxes = agent.sandboxes
    _, usual = await created(sandboxes)
    usual_mb = await size_mb(usual)
    assert 4800 < usual_mb <= 5120
    spec, sandbox = await created(sandboxes, disk_mb=LARGE_MB)
    assert 20_000 < await size_mb(sandbox) <= LARGE_MB
    # Beyond the template's size, so that layers of different sizes are read through one another.
    await output(sandbox, "head -c 3000000 /dev/urandom > /root/a; sync; md5sum /root/a > /root/sum")
    await output(
        sandbox, "fallocate -l 6G /root/far && head -c 3000000 /dev/urandom | tee /root/b > /root/c; sync"
    )
    sums = await output(sandbox, "md5sum /root/a /root/b /root/c")
    for _ in range(2):
        await sandboxes.pause(spec.sandbox_id)
        await sandboxes.resume(spec.sandbox_id)
        sandbox = sandboxes.get(spec.sandbox_id)
        assert await size_mb(sandbox) > 20_000
        assert await output(sandbox, "md5sum /root/a /root/b /root/c") == sums
        await output(
            sandbox, "echo 3 > /proc/sys/vm/drop_caches; head -c 3000000 /dev/urandom > /root/d; sync"
        )
    snapshot_id = SnapshotId.new()
    await sandboxes.ensure_snapshot(spec.sandbox_id, snapshot_id)
    await output(sandbox, "echo 3 > /proc/sys/vm/drop_caches; echo more > /root/e; sync")
    assert await output(sandbox, "md5sum /root/a /root/b /root/c") == sums
    _, copy = await created(sandboxes, snapshot_id=str(snapshot_id), disk_mb=LARGE_MB)
    assert await size_mb(copy) == await size_mb(sandbox)
    assert await output(copy, "echo 3 > /proc/sys/vm/drop_caches; md5sum /root/a /root/b /root/c") == sums
    assert (
        await output(copy, "head -c 9000000 /dev/zero > /root/f && sync && stat -c %s /root/f") == "9000000\n"
    )


async def test_a_running_and_a_paused_sandbox_get_a_larger_disk(agent: Agent) -> None:
    sandboxes = agent.sandboxes
    spec, sandbox = await created(sandboxes)
    await sandboxes.set_disk(spec.sandbox_id, 6144)
    assert 5900 < await size_mb(sandbox) <= 6144
    await sandboxes.pause(spec.sandbox_id)
    await sandboxes.set_disk(spec.sandbox_id, 7168)
    await sandboxes.resume(spec.sandbox_id)
    sandbox = sandboxes.get(spec.sandbox_id)
    assert 6900 < await size_mb(sandbox) <= 7168
    assert await output(sandbox, "fallocate -l 6G /root/far && echo fits") == "fits\n"
    with pytest.raises(InvalidRequest, match="7168 MB"):
        await sandboxes.set_disk(spec.sandbox_id, 6144)


def lower_file_limit(pid: int, size_b: int) -> None:
    """As the VMM's own user, who may lower its limits."""
    uid = Path(f"/proc/{pid}").stat().st_uid
    program = f"import resource; resource.prlimit({pid}, resource.RLIMIT_FSIZE, ({size_b}, {size_b}))"
    subprocess.run(["python3", "-I", "-c", program], user=uid, group=uid, extra_groups=[], check=True)


async def test_a_vmm_makes_no_file_larger_than_its_limit_and_lives_on(agent: Agent) -> None:
    spec, sandbox = await created(agent.sandboxes)
    pid = sandbox.vm.handle.process.pid
    assert file_limit_of(pid) == file_limit_b(spec.shape, 5120, 16 * GIB) == 18 * GIB + 64 * MIB
    # The watch late, and the guest at the end of what one file may hold.
    await asyncio.to_thread(lower_file_limit, pid, 24 * MIB)
    result = await sh(sandbox, "head -c 60000000 /dev/urandom > /root/big; sync /root/big", timeout_s=60)
    assert b"Input/output error" in result.stderr or b"Read-only file system" in result.stderr
    assert await output(sandbox, "echo it runs on") == "it runs on\n"
    disks = Qcow2Disks(agent.layout.layers, QemuBases(agent.layout.bases))
    (layer,) = map(disks.path, agent.sandboxes.inspect(spec.sandbox_id)[0].layers)
    assert layer.stat().st_size <= 24 * MIB
    # Memory and state are written by others.
    await agent.sandboxes.pause(spec.sandbox_id)


async def test_a_disk_smaller_than_the_templates_is_refused(agent: Agent) -> None:
    spec = new_spec(disk_mb=1024)
    with pytest.raises(InvalidRequest, match="5120 MB"):
        await agent.sandboxes.ensure(spec)
    assert not agent.layout.sandbox(spec.sandbox_id).exists()
