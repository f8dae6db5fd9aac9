"""Kills an agent, or processes of a VM, at steps of create, resume, pause, snapshot and delete, in the host machine: run as a program.

Usage: `python3 -m tests.kvm.fault_program VICTIM:POINT…` with the settings of an agent that has its base in the environment; VICTIM is `agent`, `monitor`
or `pager`. It prints a line for each. Afterwards each sandbox is as before the call or as after it, can be used, has what it held, and
nothing is left over. Each agent is a fork of this process, which has imported everything.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Coroutine
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

from tests.vm.kit import created, new_spec, output
from wrenn.agent.sandboxes import RunningSandbox, State
from wrenn.agent.settings import Settings
from wrenn.agent.wiring import Agent, running_agent
from wrenn.base.errors import NotFound, WrennError
from wrenn.base.faults import arm_faults
from wrenn.base.ids import SandboxId, SnapshotId
from wrenn.linux import cgroups

PROGRAMS = {"monitor": ("firecracker", "qemu-system-x86"), "pager": ("pager",)}
"""Names of processes, as the kernel cuts them."""
DIGESTS = "sha256sum /dev/shm/held /root/held"
FILL = f"head -c 1000000 /dev/urandom | tee /dev/shm/held >/root/held; sync; {DIGESTS}"
LEFT_OVER = (
    "dmsetup ls | sort; losetup -nO BACK-FILE | sort; ls -d /sys/fs/cgroup/wrenn-*/*/ 2>/dev/null; grep -c . /proc/mounts; "
    "ip netns | wc -l; ss -xlH | awk '{print $5}' | sort; pgrep -l 'firecracker|jailer|pager|qemu' | sort"
)
SETTLE_S = 60.0
HELD_S = 60.0


@dataclass(frozen=True)
class Scene:
    """What one process leaves to the next one: the sandboxes, and what they hold."""

    bystander: SandboxId
    kept: str
    sandbox_id: SandboxId
    seen: str

    def save(self, path: Path) -> None:
        path.write_text(json.dumps([str(self.bystander), self.kept, str(self.sandbox_id), self.seen]))

    @classmethod
    def load(cls, path: Path) -> Scene:
        bystander, kept, sandbox_id, seen = json.loads(path.read_text())
        return cls(SandboxId.parse(bystander), kept, SandboxId.parse(sandbox_id), seen)


async def set_up(agent: Agent, verb: str, *, paused_once: bool) -> Scene:
    """Two sandboxes; the second one is in the state in which the verb can be called, or does not exist before a create."""
    by, bystander = await created(agent.sandboxes)
    kept = await output(bystander, FILL)
    if verb == "create":
        return Scene(by.sandbox_id, kept, SandboxId.new(), "")
    spec, sandbox = await created(agent.sandboxes)
    seen = await output(sandbox, FILL)
    if paused_once:
        await agent.sandboxes.pause(spec.sandbox_id)
        await agent.sandboxes.resume(spec.sandbox_id)
    if verb == "resume":
        await agent.sandboxes.pause(spec.sandbox_id)
    return Scene(by.sandbox_id, kept, spec.sandbox_id, seen)


async def call(agent: Agent, verb: str, sandbox_id: SandboxId) -> None:
    match verb:
        case "create":
            await agent.sandboxes.ensure(replace(new_spec(), sandbox_id=sandbox_id))
        case "delete":
            await agent.sandboxes.remove(sandbox_id)
        case "pause":
            await agent.sandboxes.pause(sandbox_id)
        case "resume":
            await agent.sandboxes.resume(sandbox_id)
        case _:
            await agent.sandboxes.ensure_snapshot(sandbox_id, SnapshotId.new())


async def killed_agent(settings: Settings, point: str, scene: Path) -> None:
    """Never returns: the agent dies at the point."""
    verb = point.partition(".")[0]
    async with running_agent(settings) as agent:
        found = await set_up(agent, verb, paused_once=False)
        found.save(scene)
        arm_faults(f"agent.{point}=kill")
        await call(agent, verb, found.sandbox_id)
    raise AssertionError(f"{point} was not reached")


async def next_agent(settings: Settings, point: str, scene: Path) -> None:
    """Recovers, and finds everything in order."""
    found = Scene.load(scene)
    async with running_agent(settings) as agent:
        await look(agent, point.partition(".")[0], found)
        await clean_up(agent)


async def killed_vm(settings: Settings, victim: str, point: str) -> None:
    """The agent lives, and what it waits for at the point dies."""
    verb = point.partition(".")[0]
    async with running_agent(settings) as agent:
        found = await set_up(agent, verb, paused_once=True)
        held = settings.data_dir / "held"
        arm_faults(f"agent.{point}=hold:{held}")
        calling = asyncio.create_task(call(agent, verb, found.sandbox_id))
        async with asyncio.timeout(HELD_S):
            while not held.exists():
                assert not calling.done(), f"{point} was not reached"
                await asyncio.sleep(0.05)
        members = cgroups.members(agent.layout.cgroup(str(found.sandbox_id)))
        victims = [
            pid for pid in members if Path(f"/proc/{pid}/comm").read_text().strip() in PROGRAMS[victim]
        ]
        assert victims, f"no {victim} runs at {point}"
        for pid in victims:
            os.kill(pid, signal.SIGKILL)
        held.unlink()
        with suppress(WrennError):
            await calling
        arm_faults("")
        await look(agent, verb, found)
        await clean_up(agent)


async def look(agent: Agent, verb: str, scene: Scene) -> None:
    """The bystander was not disturbed; the other one is gone, or can be used and has what it held."""
    assert await output(agent.sandboxes.get(scene.bystander), DIGESTS) == scene.kept
    if verb in ("create", "delete"):
        with suppress(NotFound):
            await agent.sandboxes.remove(scene.sandbox_id)
        return
    sandbox = await running(agent, scene.sandbox_id)
    assert await output(sandbox, DIGESTS) == scene.seen
    # Nothing of it stands still: a write reaches the disk, a new process runs.
    assert await output(sandbox, "echo more >>/root/more && sync && cat /root/more") == "more\n"


async def running(agent: Agent, sandbox_id: SandboxId) -> RunningSandbox:
    """The sandbox; it is resumed if it is paused. That its VM has ended may not have been noticed yet."""
    async with asyncio.timeout(SETTLE_S):
        while True:
            record, sandbox = agent.sandboxes.inspect(sandbox_id)
            if record.state is State.PAUSED:
                await agent.sandboxes.resume(sandbox_id)
                return agent.sandboxes.get(sandbox_id)
            if record.state is State.RUNNING and sandbox is not None:
                if sandbox.vm.handle.process.is_alive():
                    return sandbox
            else:
                assert record.state is not State.LOST, record.reason
            await asyncio.sleep(0.1)


async def clean_up(agent: Agent) -> None:
    for record, _ in agent.sandboxes.list():
        await agent.sandboxes.remove(record.spec.sandbox_id)
    for snapshot in agent.sandboxes.list_snapshots():
        agent.sandboxes.remove_snapshot(SnapshotId.parse(snapshot.manifest.snapshot_id))


def forked(work: Coroutine[None, None, None]) -> int:
    """Run it in a process of its own; return how that ended."""
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            asyncio.run(work)
            code = 0
        except BaseException:  # noqa: BLE001 - the parent says what becomes of it
            traceback.print_exc()
        finally:
            sys.stdout.flush()
            os._exit(code)
    work.close()
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def left_over() -> str:
    return subprocess.run(
        ["sh", "-c", LEFT_OVER], capture_output=True, text=True, timeout=60, check=False
    ).stdout


def run_one(settings: Settings, victim: str, point: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        scene = Path(folder, "scene")
        if victim == "agent":
            ended = forked(killed_agent(settings, point, scene))
            assert ended == -signal.SIGKILL, f"the agent ended with {ended} instead of at its fault point"
            ended = forked(next_agent(settings, point, scene))
        else:
            ended = forked(killed_vm(settings, victim, point))
    assert ended == 0, f"the agent ended with {ended}"


def main() -> None:
    settings = Settings.from_environment(os.environ)
    before = left_over()
    failed = 0
    for argument in sys.argv[1:]:
        victim, _, point = argument.partition(":")
        begun = time.monotonic()
        try:
            run_one(settings, victim, point)
            deadline = time.monotonic() + SETTLE_S
            while (after := left_over()) != before:
                assert time.monotonic() < deadline, f"left over:\n{after}\nbefore:\n{before}"
                time.sleep(0.5)
            print(f"ok {argument} {time.monotonic() - begun:.1f} s", flush=True)
        except Exception as error:  # noqa: BLE001 - the others are tried too
            failed += 1
            print(f"FAILED {argument}: {error!r}", flush=True)
            before = left_over()
    sys.exit(failed > 0)


if __name__ == "__main__":
    main()
