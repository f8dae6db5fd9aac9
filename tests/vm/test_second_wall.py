"""What is left to code that has escaped from a guest into its VMM: nothing. See `wall_probes.py`."""

from __future__ import annotations

import json
import sys
from collections import Counter
from pathlib import Path

import pytest

from tests.vm.kit import created
from wrenn.agent.settings import Settings
from wrenn.agent.wiring import Agent
from wrenn.linux.command import run
from wrenn.linux.private_root import build_private_root
from wrenn.linux.process import kill_and_wait
from wrenn.linux.spawn import Confinement, spawn_confined
from wrenn.vm import MachineHandle
from wrenn.vm.qemu import Qcow2Disks, QemuBases
from wrenn.vm.qemu.machine import QemuMachine

_PROBES = Path(__file__).with_name("wall_probes.py")
_KINDS = {
    "host files", "other sandboxes", "processes", "network", "devices", "metadata", "kernel interfaces",
}  # fmt: skip


async def test_code_in_a_vmm_reaches_nothing_of_the_host(agent: Agent, settings: Settings) -> None:
    _, first = await created(agent.sandboxes)
    spec, other = await created(agent.sandboxes)
    base = next(folder for folder in agent.layout.bases.iterdir() if (folder / "memory").exists())
    (layer,) = agent.sandboxes.inspect(spec.sandbox_id)[0].layers
    target = {
        "vmm": first.vm.handle.process.pid,
        "other": other.vm.handle.process.pid,
        "other_dir": str(other.vm.handle.directory),
        "other_files": [
            str(next(agent.layout.layers.glob(f"{layer}*"))),
            *(str(base / name) for name in ("memory", "state", "disk.qcow2")),
        ],
        "other_address": other.address,
        "data_dir": str(agent.layout.data_dir),
        "agent_port": settings.listen_port,
    }
    lines = (await run([sys.executable, str(_PROBES), json.dumps(target)], timeout_s=120)).decode()
    first_line, *rest = [json.loads(line) for line in lines.splitlines()]

    both = first_line["identity"]
    assert both["probe"] == both["vmm"], "what the probes run in is the confinement of a VMM"
    assert both["vmm"]["Seccomp_filters"] == "2"

    count = [probe for probe in rest if probe["outside"] == "success"]
    print("\n".join(f"{p['kind']}: {p['name']}: {p['outside']} / {p['inside']}" for p in rest))
    got_through = [f"{p['kind']}: {p['name']}" for p in count if p["inside"] == "success"]
    assert got_through == []
    assert [p for p in rest if p["inside"].startswith("broken")] == []
    kinds = Counter(probe["kind"] for probe in count)
    assert set(kinds) == _KINDS
    assert min(kinds.values()) >= 10, kinds
    assert kinds.total() >= 100


async def test_a_vmm_that_makes_a_forbidden_call_ends_and_is_logged(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    program = Path("/usr/bin/unshare")
    root = await build_private_root([program])
    process = spawn_confined(
        [str(program), "--mount"],
        root=root,
        confinement=Confinement(1_900_000_000 - 1, ()),
        pass_fds=(),
        log=tmp_path / "log",
    )
    root.close()
    disks = Qcow2Disks(tmp_path, QemuBases(tmp_path))
    await QemuMachine(MachineHandle(process, tmp_path), disks).wait_exit()
    assert "VMM ended for a forbidden system call" in caplog.text


async def test_no_mount_and_no_descriptor_is_left_on_the_host(tmp_path: Path) -> None:
    mounts, descriptors = Path("/proc/self/mountinfo").read_text(), len(list(Path("/proc/self/fd").iterdir()))
    root = await build_private_root([Path("/bin/sleep")])
    process = spawn_confined(
        ["/bin/sleep", "60"],
        root=root,
        confinement=Confinement(1_900_000_000 - 1, ()),
        pass_fds=(),
        log=tmp_path / "log",
    )
    root.close()
    assert process.is_alive()
    assert Path("/proc/self/mountinfo").read_text() == mounts
    assert len(list(Path("/proc/self/fd").iterdir())) == descriptors
    await kill_and_wait(process, timeout_s=10)
