"""What the process of a virtual machine may do on the host: next to nothing."""

from __future__ import annotations

import os
from pathlib import Path

from tests.vm.kit import created, output
from wrenn.agent.wiring import Agent
from wrenn.linux import cgroups


def status_of(pid: int) -> dict[str, str]:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return {name: value.strip() for name, value in (line.split(":", 1) for line in lines)}


async def test_a_vmm_has_no_rights_no_network_and_no_file_of_the_host(agent: Agent) -> None:
    _, first = await created(agent.sandboxes)
    _, second = await created(agent.sandboxes)
    pids = [s.vm.handle.process.pid for s in (first, second)]
    users = [status_of(pid)["Uid"].split() for pid in pids]
    assert all(len(set(ids)) == 1 and int(ids[0]) >= 1_900_000_000 for ids in users)
    assert users[0] != users[1], "no two VMMs share a user"
    for pid in pids:
        status = status_of(pid)
        assert int(status["CapEff"], 16) == int(status["CapBnd"], 16) == 0
        assert status["NoNewPrivs"] == "1"
        assert status["Seccomp"] == "2"
        assert Path(f"/proc/{pid}/ns/net").readlink() != Path("/proc/self/ns/net").readlink()
        links = Path(f"/proc/{pid}/net/dev").read_text().splitlines()[2:]
        assert [line.split(":")[0].strip() for line in links] == ["lo"]
        for kind in ("mnt", "pid", "ipc", "uts"):
            assert Path(f"/proc/{pid}/ns/{kind}").readlink() != Path(f"/proc/self/ns/{kind}").readlink()
        assert Path(f"/proc/{pid}/oom_score_adj").read_text() == "500\n"


async def test_a_vmm_has_a_root_of_its_own_program_only(agent: Agent) -> None:
    _, sandbox = await created(agent.sandboxes)
    pid = sandbox.vm.handle.process.pid
    root = Path(f"/proc/{pid}/root")
    assert sorted(entry.name for entry in root.iterdir()) == ["bin", "lib", "lib64", "proc", "usr"]
    assert sorted(entry.name for entry in (root / "proc").rglob("*") if not entry.name.isdigit()) == [
        "fd",
        "self",
    ]
    mounts = [line.split() for line in Path(f"/proc/{pid}/mountinfo").read_text().splitlines()]
    assert all({"ro", "nosuid"} <= set(mount[5].split(",")) for mount in mounts)
    assert "/usr/bin/qemu-system-x86_64" in {mount[4] for mount in mounts}
    assert not {mount[4] for mount in mounts} & {"/usr/bin/dash", "/usr/bin/sh", "/usr/bin/bash"}
    assert status_of(pid)["NSpid"].split() == [str(pid), "1"], "it is the first process of its namespace"


async def test_a_guest_sees_no_nested_virtualisation(agent: Agent) -> None:
    _, sandbox = await created(agent.sandboxes)
    flags = await output(sandbox, "grep -m1 ^flags /proc/cpuinfo")
    assert "sse2" in flags.split()
    assert not {"vmx", "svm"} & set(flags.split())


async def test_a_vmm_is_in_its_own_limited_cgroup(agent: Agent) -> None:
    spec, sandbox = await created(agent.sandboxes)
    name = agent.layout.cgroup(str(spec.sandbox_id))
    assert cgroups.members(name) == [sandbox.vm.handle.process.pid]
    assert not cgroups.missing_controllers()


async def test_a_vmm_inherits_only_what_it_needs(agent: Agent) -> None:
    spec, sandbox = await created(agent.sandboxes)
    folder = Path(f"/proc/{sandbox.vm.handle.process.pid}/fd")
    targets = {os.readlink(entry) for entry in folder.iterdir()}  # noqa: PTH115
    files = {
        target for target in targets if target.startswith("/") and not target.startswith(("/dev/", "/memfd:"))
    }
    names = {Path(target).name for target in files}
    (layer,) = agent.sandboxes.inspect(spec.sandbox_id)[0].layers
    assert names <= {f"{layer}.qcow2", "disk.qcow2", "rootfs.ext4", "vmm.log", "state"}, names


async def test_a_base_cannot_be_written_by_anybody(agent: Agent) -> None:
    for directory in agent.layout.bases.iterdir():
        for file in directory.iterdir():
            if file.name in ("memory", "state", "disk.qcow2", "empty.qcow2"):
                assert file.stat().st_mode & 0o777 == 0o400
                assert file.stat().st_uid == 0
