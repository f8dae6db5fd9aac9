"""Snapshots of running and paused sandboxes, and the clones made from them."""

from __future__ import annotations

import asyncio
import hashlib
import random
import time

import pytest

from tests.vm.kit import created, new_spec, output, sh
from tests.vm.test_pause import COUNTER, counted, cycle, until
from wrenn.agent.sandboxes import RunningSandbox, SandboxSpec, State
from wrenn.agent.wiring import Agent
from wrenn.base import errors as e
from wrenn.base.ids import SandboxId, SnapshotId
from wrenn.guest import CommandLine
from wrenn.vm import Shape


async def take_snapshot(agent: Agent, sandbox_id: SandboxId) -> str:
    snapshot_id = SnapshotId.new()
    await agent.sandboxes.ensure_snapshot(sandbox_id, snapshot_id)
    return str(snapshot_id)


async def clone(agent: Agent, snapshot_id: str) -> tuple[SandboxSpec, RunningSandbox]:
    return await created(agent.sandboxes, snapshot_id=snapshot_id)


async def forks(agent: Agent, sandbox_id: SandboxId, count: int) -> list[tuple[SandboxSpec, RunningSandbox]]:
    snapshot_id = await take_snapshot(agent, sandbox_id)
    made = await asyncio.gather(*(clone(agent, snapshot_id) for _ in range(count)))
    agent.sandboxes.remove_snapshot(SnapshotId.parse(snapshot_id))
    return made


async def test_a_running_sandbox_keeps_running_during_a_snapshot(agent: Agent) -> None:
    spec, sandbox = await created(agent.sandboxes)
    await sandbox.commands.start(CommandLine("python3", ("-c", COUNTER)), tag="counter")
    running = asyncio.create_task(sh(sandbox, "sleep 1; echo whole; sleep 1; echo answer"))
    await asyncio.sleep(0.5)
    await output(sandbox, "echo before > /root/file; sync")
    snapshot_id = await take_snapshot(agent, spec.sandbox_id)
    assert agent.sandboxes.get(spec.sandbox_id) is sandbox
    assert (await running).stdout == b"whole\nanswer\n", "a call under way is not disturbed"
    await output(sandbox, "echo after > /root/file; sync")
    _, copy = await clone(agent, snapshot_id)
    assert await output(copy, "cat /root/file") == "before\n"
    assert await output(sandbox, "cat /root/file") == "after\n"
    for one in (sandbox, copy):
        first = await counted(one)
        await asyncio.sleep(0.4)
        assert await counted(one) > first
    assert [p.tag for p in await copy.commands.list() if p.tag] == ["counter"]


async def test_a_sandbox_knows_its_template_by_the_name_that_was_asked_for_also_after_a_pause(
    agent: Agent,
) -> None:
    spec, sandbox = await created(agent.sandboxes)
    assert await output(sandbox, "echo $WRENN_TEMPLATE") == "minimal\n"
    snapshot_id = await take_snapshot(agent, spec.sandbox_id)
    spec, copy = await created(agent.sandboxes, snapshot_id=snapshot_id, template_name="my-tools")
    assert await output(copy, "echo $WRENN_TEMPLATE") == "my-tools\n"
    await agent.sandboxes.pause(spec.sandbox_id)
    await agent.sandboxes.resume(spec.sandbox_id)
    assert await output(agent.sandboxes.get(spec.sandbox_id), "echo $WRENN_TEMPLATE") == "my-tools\n"


async def test_clones_of_one_snapshot_have_their_own_identity(agent: Agent) -> None:
    spec, sandbox = await created(agent.sandboxes, envs={"KEPT": "yes"})
    # Programs that wait at the moment of the snapshot, and take random numbers, names and the time right after it.
    waiting = """
import os, socket, time, uuid
while not os.path.exists("/dev/shm/go"):
    time.sleep(0.01)
open("/dev/shm/facts", "w").write(f"{uuid.uuid4()} {os.urandom(16).hex()} {socket.gethostname()} {time.time()}")
"""
    await sandbox.commands.start(CommandLine("python3", ("-c", waiting)), tag="waiting")
    await output(sandbox, "touch /dev/shm/early")
    # The program is let go by the snapshot itself: the file is there when its clones begin to run.
    snapshot_id = await take_snapshot(agent, spec.sandbox_id)
    copies = await asyncio.gather(*(clone(agent, snapshot_id) for _ in range(3)))
    seen: list[tuple[str, ...]] = []
    for _, copy in copies:
        await output(
            copy,
            "touch /dev/shm/go; for i in $(seq 50); do test -s /dev/shm/facts && exit 0; sleep 0.1; done; exit 1",
        )
        before = time.time()
        guest = float(await output(copy, "date +%s.%N"))
        assert before - 0.5 < guest < time.time() + 0.5
        facts = (await output(copy, "cat /dev/shm/facts")).split()[:3]
        more = (
            await output(
                copy,
                "hostname; cat /etc/machine-id; cat /proc/sys/kernel/random/uuid; head -c 16 /dev/urandom | od -An -tx1 | tr -d ' '; echo $WRENN_SANDBOX_ID",
            )
        ).split()
        assert facts[2] == more[0] == more[-1]
        seen.append((*facts, *more))
    for column in zip(*seen, strict=True):
        assert len(set(column)) == len(copies), column
    assert len({copy.token.reveal() for _, copy in copies} | {sandbox.token.reveal()}) == 4


async def test_a_snapshot_of_a_paused_sandbox_leaves_it_paused(agent: Agent) -> None:
    spec, sandbox = await created(agent.sandboxes)
    await output(sandbox, "echo held > /dev/shm/file")
    await agent.sandboxes.pause(spec.sandbox_id)
    snapshot_id = await take_snapshot(agent, spec.sandbox_id)
    assert agent.sandboxes.inspect(spec.sandbox_id)[0].state is State.PAUSED
    await agent.sandboxes.remove(spec.sandbox_id)
    _, copy = await clone(agent, snapshot_id)
    assert await output(copy, "cat /dev/shm/file") == "held\n"


async def test_taking_a_snapshot_is_idempotent_and_a_wrong_shape_is_refused(agent: Agent) -> None:
    spec, _ = await created(agent.sandboxes)
    snapshot_id = SnapshotId.new()
    both = await asyncio.gather(
        *(agent.sandboxes.ensure_snapshot(spec.sandbox_id, snapshot_id) for _ in range(2))
    )
    assert both[0].manifest == both[1].manifest
    assert [s.manifest.snapshot_id for s in agent.sandboxes.list_snapshots()] == [str(snapshot_id)]
    other = new_spec(snapshot_id=str(snapshot_id), shape=Shape(2, 256))
    with pytest.raises(e.InvalidRequest, match="1 vCPUs and 256 MB"):
        await agent.sandboxes.ensure(other)
    with pytest.raises(e.NotFound):
        await agent.sandboxes.ensure(new_spec(snapshot_id=str(SnapshotId.new())))
    assert len(agent.sandboxes.list()) == 1
    agent.sandboxes.remove_snapshot(snapshot_id)


async def test_taking_a_snapshot_during_a_removal_has_one_outcome(agent: Agent) -> None:
    spec, _ = await created(agent.sandboxes)
    snapshot_id = SnapshotId.new()
    keeping = asyncio.create_task(agent.sandboxes.ensure_snapshot(spec.sandbox_id, snapshot_id))
    await asyncio.sleep(0.02)
    await agent.sandboxes.remove(spec.sandbox_id)
    await asyncio.wait({keeping})
    assert agent.sandboxes.list() == []
    if keeping.exception() is None:
        await clone(agent, str(snapshot_id))
    else:
        assert agent.sandboxes.list_snapshots() == []
    assert list(agent.layout.snapshots.glob(".draft-*")) == []


async def test_a_snapshot_goes_with_the_last_that_needs_it(agent: Agent) -> None:
    spec, sandbox = await created(agent.sandboxes)
    await output(sandbox, "echo shared > /root/file; sync")
    ((child, _),) = await forks(agent, spec.sandbox_id, 1)
    await agent.sandboxes.remove(spec.sandbox_id)
    await asyncio.sleep(0.5)
    assert len(list(agent.layout.snapshots.iterdir())) == 1, "its clone runs on its memory"
    copy = await cycle(agent, child.sandbox_id)
    assert await output(copy, "cat /root/file") == "shared\n"
    await agent.sandboxes.remove(child.sandbox_id)
    await until(lambda: not any((*agent.layout.snapshots.iterdir(), *agent.layout.layers.iterdir())))


async def test_a_long_chain_of_layers_is_merged_while_the_sandbox_runs(agent: Agent) -> None:
    spec, sandbox = await created(agent.sandboxes)
    for number in range(10):
        await output(
            sandbox, f"head -c 2000000 /dev/urandom > /root/{number}; rm -f /root/{number - 5}; sync"
        )
        agent.sandboxes.remove_snapshot(SnapshotId.parse(await take_snapshot(agent, spec.sandbox_id)))
    seen = await output(sandbox, "sha256sum /root/*")
    # A snapshot right after a merge adds one again.
    await until(lambda: len(agent.sandboxes.inspect(spec.sandbox_id)[0].layers) <= 3)
    await until(lambda: len(list(agent.layout.layers.iterdir())) <= 3)
    await output(sandbox, "echo 3 > /proc/sys/vm/drop_caches")
    assert await output(sandbox, "sha256sum /root/*") == seen
    resumed = await cycle(agent, spec.sandbox_id)
    await output(resumed, "echo 3 > /proc/sys/vm/drop_caches")
    assert await output(resumed, "sha256sum /root/*") == seen


async def test_a_pause_need_not_wait_for_a_merge(agent: Agent) -> None:
    spec, sandbox = await created(agent.sandboxes)
    seen = await output(sandbox, "head -c 150000000 /dev/urandom > /root/large; sync; sha256sum /root/large")
    for _ in range(9):
        agent.sandboxes.remove_snapshot(SnapshotId.parse(await take_snapshot(agent, spec.sandbox_id)))
    await agent.sandboxes.pause(spec.sandbox_id)
    assert len(list(agent.layout.layers.iterdir())) == 10
    await agent.sandboxes.resume(spec.sandbox_id)
    sandbox = agent.sandboxes.get(spec.sandbox_id)
    await output(sandbox, "echo 3 > /proc/sys/vm/drop_caches")
    assert await output(sandbox, "sha256sum /root/large") == seen
    await until(lambda: len(agent.sandboxes.inspect(spec.sandbox_id)[0].layers) == 1)


class Model:
    """What a sandbox must hold: random data in a program's memory, in a tmpfs, on the disk; and zeros where data was."""

    HOLDER = """
import hashlib, os, random, socket, threading, time
held = bytearray(8 << 20)
count = 0
def tick():
    global count
    while True:
        count += 1
        time.sleep(0.02)
threading.Thread(target=tick, daemon=True).start()
server = socket.create_server(("127.0.0.1", 7100))
open("/dev/shm/listens", "w").close()
while True:
    client = server.accept()[0]
    words = client.recv(200).decode().split()
    if words[0] == "fill":
        seed, start, length = map(int, words[1:])
        held[start : start + length] = random.Random(seed).randbytes(length) if seed else bytes(length)
        answer = "ok"
    else:
        answer = f"{hashlib.sha256(held).hexdigest()} {count}"
    client.sendall(answer.encode())
    client.close()
"""
    # Under emulation an interpreter of Python would take longer to start than the rest of a turn.
    ASK = 'exec 3<>/dev/tcp/127.0.0.1/7100; printf %s "$1" >&3; cat <&3'

    def __init__(self, chance: random.Random) -> None:
        self.chance = chance
        self.held = bytearray(8 << 20)
        self.files: dict[str, bytes] = {}
        self.count = 0

    def copy(self) -> Model:
        twin = Model(random.Random(self.chance.random()))
        twin.held, twin.files, twin.count = bytearray(self.held), dict(self.files), self.count
        return twin

    @classmethod
    async def begin(cls, sandbox: RunningSandbox) -> Model:
        await sandbox.commands.start(CommandLine("python3", ("-c", cls.HOLDER)), tag="holder")
        await output(
            sandbox, "for i in $(seq 50); do test -e /dev/shm/listens && exit 0; sleep 0.1; done; exit 1"
        )
        return cls(random.Random(random.randrange(2**32)))

    async def _ask(self, sandbox: RunningSandbox, question: str) -> str:
        result = await sandbox.commands.run(
            CommandLine("/bin/bash", ("-c", self.ASK, "ask", question)), timeout_s=30
        )
        assert result.exit_code == 0, result
        return result.stdout.decode().strip()

    async def change(self, sandbox: RunningSandbox) -> None:
        seed = self.chance.choice([0, self.chance.randrange(1, 2**32)])
        length = self.chance.choice([100, 5000, 300_000])
        start = self.chance.randrange(len(self.held) - length)
        await self._ask(sandbox, f"fill {seed} {start} {length}")
        self.held[start : start + length] = random.Random(seed).randbytes(length) if seed else bytes(length)
        for place in ("/dev/shm", "/root"):
            name, content = f"{place}/{self.chance.choice('abc')}", self.chance.randbytes(100_000)

            async def chunks(content: bytes = content):  # type: ignore[no-untyped-def]
                yield content

            await sandbox.files.write(name, chunks(), user="root")
            self.files[name] = content

    async def check(self, sandbox: RunningSandbox) -> None:
        digest, count = (await self._ask(sandbox, "look")).split()
        assert digest == hashlib.sha256(self.held).hexdigest(), "memory of a program"
        assert int(count) > self.count, "the program goes on counting"
        self.count = int(count)
        if self.files:
            seen = await output(sandbox, f"sha256sum {' '.join(sorted(self.files))}")
            assert [line.split()[0] for line in seen.splitlines()] == [
                hashlib.sha256(self.files[name]).hexdigest() for name in sorted(self.files)
            ]


async def test_twenty_pauses_and_forks_of_forks_lose_nothing(agent: Agent) -> None:
    spec, sandbox = await created(agent.sandboxes)
    model = await Model.begin(sandbox)
    for _ in range(20):
        await model.change(sandbox)
        sandbox = await cycle(agent, spec.sandbox_id)
        await model.check(sandbox)
    generation = [(spec, sandbox, model)]
    for _ in range(3):
        spec, sandbox, model = generation[-1]
        await model.change(sandbox)
        for copy_spec, copy in await forks(agent, spec.sandbox_id, 2):
            twin = model.copy()
            await twin.check(copy)
            await twin.change(copy)
            resumed = await cycle(agent, copy_spec.sandbox_id)
            await twin.check(resumed)
            generation.append((copy_spec, resumed, twin))
    for _, sandbox, model in generation:
        await model.check(sandbox)
