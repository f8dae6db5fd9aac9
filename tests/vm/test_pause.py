"""Pause and resume of real virtual machines: memory, processes, files and listening servers go on."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.vm.kit import created, output, sh
from wrenn.agent.doctor import examine
from wrenn.agent.sandboxes import Record, RunningSandbox, State
from wrenn.agent.settings import Settings
from wrenn.agent.wiring import Agent, running_agent
from wrenn.base import errors as e
from wrenn.base.faults import FaultInjected, arm_faults
from wrenn.base.ids import SandboxId
from wrenn.guest import CommandLine

COUNTER = """
import os, time
count = 0
while True:
    count += 1
    open("/dev/shm/new", "w").write(str(count))
    os.replace("/dev/shm/new", "/dev/shm/count")
    time.sleep(0.05)
"""
SERVER = """
import socket, threading
server = socket.create_server(("0.0.0.0", 7000))
def serve(client):
    with client:
        while data := client.recv(100):
            client.sendall(data)
while True:
    threading.Thread(target=serve, args=(server.accept()[0],), daemon=True).start()
"""


async def counted(sandbox: RunningSandbox) -> int:
    return int(await output(sandbox, "cat /dev/shm/count"))


async def cycle(agent: Agent, sandbox_id: SandboxId) -> RunningSandbox:
    await agent.sandboxes.pause(sandbox_id)
    await agent.sandboxes.resume(sandbox_id)
    return agent.sandboxes.get(sandbox_id)


async def until(true: Callable[[], bool]) -> None:
    async with asyncio.timeout(20):
        while not true():
            await asyncio.sleep(0.02)


async def test_processes_memory_and_files_survive(agent: Agent) -> None:
    spec, sandbox = await created(agent.sandboxes)
    await sandbox.commands.start(CommandLine("python3", ("-c", COUNTER)), tag="counter")
    await output(sandbox, "head -c 3000000 /dev/urandom > /root/file; cp /root/file /dev/shm/file; sync")
    before = await output(sandbox, "sha256sum /root/file /dev/shm/file; hostname; sleep 0.3")
    await agent.sandboxes.pause(spec.sandbox_id)
    with pytest.raises(e.InvalidState, match="is paused"):
        agent.sandboxes.get(spec.sandbox_id)
    record, running = agent.sandboxes.inspect(spec.sandbox_id)
    assert (record.state, record.slot, record.process, running) == (State.PAUSED, None, None, None)
    assert not sandbox.vm.handle.process.is_alive()
    await agent.sandboxes.resume(spec.sandbox_id)
    sandbox = agent.sandboxes.get(spec.sandbox_id)
    assert await output(sandbox, "sha256sum /root/file /dev/shm/file; hostname") == before
    first = await counted(sandbox)
    await asyncio.sleep(0.5)
    assert await counted(sandbox) > first
    assert [p.tag for p in await sandbox.commands.list()] == ["counter"]


async def test_the_clock_is_right_after_a_pause_and_timers_did_not_run(agent: Agent) -> None:
    spec, sandbox = await created(agent.sandboxes)
    await agent.sandboxes.pause(spec.sandbox_id)
    await asyncio.sleep(2)
    await agent.sandboxes.resume(spec.sandbox_id)
    before = time.time()
    guest = float(await output(agent.sandboxes.get(spec.sandbox_id), "date +%s.%N"))
    assert before - 0.5 < guest < time.time() + 0.5
    assert not sandbox.vm.handle.process.is_alive()


async def test_a_server_in_the_guest_answers_after_a_resume_and_open_connections_break_at_once(
    agent: Agent,
) -> None:
    spec, sandbox = await created(agent.sandboxes)
    await sandbox.commands.start(CommandLine("python3", ("-c", SERVER)), tag="server")
    await output(
        sandbox, "for i in 1 2 3 4 5 6 7 8 9; do ss -ltn | grep -q 7000 && exit 0; sleep 0.2; done; exit 1"
    )

    async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bytes:
        writer.write(b"ping")
        return await reader.readexactly(4)

    held = await asyncio.open_connection(sandbox.address, 7000)
    assert await echo(*held) == b"ping"
    await agent.sandboxes.pause(spec.sandbox_id)
    async with asyncio.timeout(1):
        with pytest.raises((ConnectionError, asyncio.IncompleteReadError)):
            await held[0].readexactly(1)
    held[1].close()
    await agent.sandboxes.resume(spec.sandbox_id)
    reader, writer = await asyncio.open_connection(agent.sandboxes.get(spec.sandbox_id).address, 7000)
    async with asyncio.timeout(5):
        assert await echo(reader, writer) == b"ping"
    writer.close()


async def test_a_call_under_way_is_cut_with_an_error_and_its_process_survives(agent: Agent) -> None:
    spec, sandbox = await created(agent.sandboxes)

    async def call() -> None:
        async with agent.sandboxes.use(spec.sandbox_id) as running:
            await sh(running, "sleep 3; echo done > /dev/shm/done; sleep 60", timeout_s=100)

    calling = asyncio.create_task(call())
    await asyncio.sleep(0.5)
    started = time.monotonic()
    await agent.sandboxes.pause(spec.sandbox_id)
    assert 1.5 < time.monotonic() - started < 6, "it had its grace of two seconds"
    with pytest.raises(e.InvalidState, match="paused"):
        await calling
    await agent.sandboxes.resume(spec.sandbox_id)
    sandbox = agent.sandboxes.get(spec.sandbox_id)
    assert (
        await output(
            sandbox, "for i in $(seq 60); do test -e /dev/shm/done && exit 0; sleep 0.1; done; exit 1"
        )
        == ""
    )


async def test_a_pause_in_the_middle_of_heavy_writes_keeps_memory_and_disk_in_step(agent: Agent) -> None:
    spec, sandbox = await created(agent.sandboxes)
    # Each file is named after its content, on the disk and in memory; whatever is there must be whole.
    writing = """
import hashlib, os
number = 0
while True:
    content = os.urandom(300_000)
    name = hashlib.sha256(content).hexdigest()
    for place in ("/root", "/dev/shm"):
        with open(f"{place}/.new", "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(f"{place}/.new", f"{place}/{name}")
    number += 1
    if number > 40:
        for place in ("/root", "/dev/shm"):
            for old in sorted(os.listdir(place))[:20]:
                os.unlink(f"{place}/{old}")
        number = 20
"""
    checking = """
import hashlib, pathlib
for place in ("/root", "/dev/shm"):
    for path in pathlib.Path(place).glob("?" * 64):
        assert hashlib.sha256(path.read_bytes()).hexdigest() == path.name, path
print("whole")
"""
    await sandbox.commands.start(CommandLine("python3", ("-c", writing)), tag="writing")
    for _ in range(4):
        await asyncio.sleep(1)
        sandbox = await cycle(agent, spec.sandbox_id)
    await sandbox.commands.signal("writing", 9)
    await output(sandbox, "rm -f /root/.new /dev/shm/.new; sync; echo 3 > /proc/sys/vm/drop_caches")
    checked = await sandbox.commands.run(CommandLine("python3", ("-c", checking)), timeout_s=60)
    assert checked.stdout == b"whole\n", checked
    assert "error" not in await output(sandbox, "dmesg | grep -i ext4 || true")


async def test_a_sandbox_in_use_is_not_idle(agent: Agent) -> None:
    spec, _ = await created(agent.sandboxes)
    record = await agent.sandboxes.pause(spec.sandbox_id, idle_s=60)
    assert record.state is State.RUNNING
    async with agent.sandboxes.use(spec.sandbox_id):
        await asyncio.sleep(0.2)
        assert (await agent.sandboxes.pause(spec.sandbox_id, idle_s=0.1)).state is State.RUNNING
    await asyncio.sleep(0.3)
    assert (await agent.sandboxes.pause(spec.sandbox_id, idle_s=0.2)).state is State.PAUSED


async def test_each_pause_leaves_one_snapshot_and_frees_the_one_before(agent: Agent) -> None:
    spec, sandbox = await created(agent.sandboxes)
    seen: set[str] = set()
    for _ in range(3):
        sandbox = await cycle(agent, spec.sandbox_id)
        seen.add(agent.sandboxes.inspect(spec.sandbox_id)[0].snapshot)
        await until(lambda: len(list(agent.layout.snapshots.iterdir())) == 1)
    assert len(seen) == 3
    assert len(list(agent.layout.layers.iterdir())) == 2, "what it writes, and what the snapshot has"
    assert len(agent.sandboxes.inspect(spec.sandbox_id)[0].layers) == 1, (
        "small layers are copied, not stacked"
    )
    await output(sandbox, "true")
    await agent.sandboxes.remove(spec.sandbox_id)
    await until(lambda: not any((*agent.layout.snapshots.iterdir(), *agent.layout.layers.iterdir())))


async def test_concurrent_pauses_and_resumes_share_one_operation(agent: Agent) -> None:
    spec, _ = await created(agent.sandboxes)
    pauses = await asyncio.gather(*(agent.sandboxes.pause(spec.sandbox_id) for _ in range(4)))
    assert len({record.snapshot for record in pauses}) == 1
    resumes = await asyncio.gather(*(agent.sandboxes.resume(spec.sandbox_id) for _ in range(4)))
    assert len({record.process for record in resumes}) == 1
    await asyncio.gather(
        agent.sandboxes.pause(spec.sandbox_id),
        agent.sandboxes.remove(spec.sandbox_id),
        return_exceptions=True,
    )
    assert agent.sandboxes.list() == []


async def test_removing_during_a_resume_removes_the_sandbox(agent: Agent) -> None:
    spec, _ = await created(agent.sandboxes)
    await agent.sandboxes.pause(spec.sandbox_id)
    resuming = asyncio.create_task(agent.sandboxes.resume(spec.sandbox_id))
    await asyncio.sleep(0.05)
    await agent.sandboxes.remove(spec.sandbox_id)
    with pytest.raises(e.InvalidState):
        await resuming
    assert agent.sandboxes.list() == []


async def test_a_vmm_that_ends_after_a_resume_leaves_the_state_of_the_last_pause(agent: Agent) -> None:
    spec, sandbox = await created(agent.sandboxes)
    await output(sandbox, "echo first > /root/file; sync")
    sandbox = await cycle(agent, spec.sandbox_id)
    await output(sandbox, "echo second > /root/file; sync")
    sandbox.vm.handle.process.kill()
    await until(lambda: agent.sandboxes.inspect(spec.sandbox_id)[0].state is State.PAUSED)
    assert "last pause" in agent.sandboxes.inspect(spec.sandbox_id)[0].reason
    await agent.sandboxes.resume(spec.sandbox_id)
    assert await output(agent.sandboxes.get(spec.sandbox_id), "cat /root/file") == "first\n"


async def test_paused_sandboxes_survive_the_agent(settings: Settings) -> None:
    async with running_agent(settings) as first:
        spec, sandbox = await created(first.sandboxes)
        await output(sandbox, "echo kept > /dev/shm/file")
        await first.sandboxes.pause(spec.sandbox_id)
    async with running_agent(settings) as second:
        assert second.sandboxes.inspect(spec.sandbox_id)[0].state is State.PAUSED
        await second.sandboxes.resume(spec.sandbox_id)
        assert await output(second.sandboxes.get(spec.sandbox_id), "cat /dev/shm/file") == "kept\n"
        await second.sandboxes.remove(spec.sandbox_id)


async def test_an_agent_start_that_fails_or_cannot_read_a_journal_collects_no_garbage(
    settings: Settings,
) -> None:
    async with running_agent(settings) as agent:
        whole, _ = await created(agent.sandboxes)
        torn, sandbox = await created(agent.sandboxes)
        await output(sandbox, "echo kept > /dev/shm/file")
        for spec in (whole, torn):
            await agent.sandboxes.pause(spec.sandbox_id)
        journal = agent.layout.sandbox(torn.sandbox_id) / "journal.json"
    arm_faults("agent.recover.after_slots=error")
    try:
        with pytest.raises(FaultInjected):
            async with running_agent(settings):
                pass
    finally:
        arm_faults("")
    content = journal.read_text()
    journal.write_text(content[:-10])
    async with running_agent(settings) as agent:
        await agent.sandboxes.resume(whole.sandbox_id)
        await agent.sandboxes.remove(whole.sandbox_id)
        assert [str(r.spec.sandbox_id) for r, _ in agent.sandboxes.list()] == []
    report = await examine(settings)
    assert not report.healthy
    assert report.leftovers == [], "what a sandbox needs whose journal cannot be read is not known"
    journal.write_text(content)
    async with running_agent(settings) as agent:
        await agent.sandboxes.resume(torn.sandbox_id)
        assert await output(agent.sandboxes.get(torn.sandbox_id), "cat /dev/shm/file") == "kept\n"
        await agent.sandboxes.remove(torn.sandbox_id)
    assert (await examine(settings)).leftovers == []


def spoil(path: Path, *, at: int) -> None:
    path.chmod(0o600)
    content = bytearray(path.read_bytes())
    content[at] ^= 0x55
    path.write_bytes(content)


def cut(path: Path) -> None:
    path.chmod(0o600)
    path.write_bytes(path.read_bytes()[:-100])


DAMAGE: dict[str, Callable[[Path, Path], object]] = {
    "manifest torn": lambda snapshot, _: cut(snapshot / "manifest.json"),
    "manifest altered": lambda snapshot, _: (snapshot / "manifest.json").write_text(
        (snapshot / "manifest.json").read_text().replace('"memory_mb": 256', '"memory_mb": 257')
    ),
    "diff torn": lambda snapshot, _: cut(snapshot / "memory"),
    "diff altered": lambda snapshot, _: spoil(snapshot / "memory", at=5000),
    "state torn": lambda snapshot, _: cut(snapshot / "state"),
    "state altered": lambda snapshot, _: spoil(snapshot / "state", at=5000),
    "layer torn": lambda _, layer: cut(layer),
    "layer altered": lambda _, layer: spoil(layer, at=70_000),
    "layer missing": lambda _, layer: layer.unlink(),
}


async def test_a_damaged_snapshot_is_refused_and_never_restored(settings: Settings) -> None:
    async with running_agent(settings) as agent:
        spec, sandbox = await created(agent.sandboxes)
        await output(sandbox, "echo kept > /root/file; sync")
        await agent.sandboxes.pause(spec.sandbox_id)
        record: Record = agent.sandboxes.inspect(spec.sandbox_id)[0]
        snapshot = agent.layout.snapshots / record.snapshot
        (layer,) = agent.layout.layers.iterdir()
        for what, damage in DAMAGE.items():
            whole = {path: path.read_bytes() for path in (*snapshot.iterdir(), layer)}
            damage(snapshot, layer)
            with pytest.raises(e.AgentFailure):
                await agent.sandboxes.resume(spec.sandbox_id)
            assert agent.sandboxes.inspect(spec.sandbox_id)[0].state is State.PAUSED, what
            for path, content in whole.items():
                if path.exists():
                    path.chmod(0o600)
                path.write_bytes(content)
        await agent.sandboxes.resume(spec.sandbox_id)
        assert await output(agent.sandboxes.get(spec.sandbox_id), "cat /root/file") == "kept\n"
        await agent.sandboxes.pause(spec.sandbox_id)
        await until(lambda: not agent.sandboxes.inspect(spec.sandbox_id)[0].former_snapshot)
        record = agent.sandboxes.inspect(spec.sandbox_id)[0]
        cut(agent.layout.snapshots / record.snapshot / "memory")
    async with running_agent(settings) as agent:
        record, running = agent.sandboxes.inspect(spec.sandbox_id)
        assert (record.state, running) == (State.LOST, None)
        assert "damaged" in record.reason
        await agent.sandboxes.remove(spec.sandbox_id)
