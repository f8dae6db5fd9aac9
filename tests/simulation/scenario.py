"""A random life of one host: clients that use its agent while guests fail, steps fail and the agent is killed.

Everything comes from the seed. `play` raises AssertionError if the agent breaks a promise, and returns what happened.
"""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from tests.agent.kit import leftovers
from wrenn.agent.sandboxes import SandboxSpec, State
from wrenn.agent.wiring import Agent
from wrenn.base.errors import InvalidState, NotFound, WrennError
from wrenn.base.faults import FaultInjected, arm_faults
from wrenn.base.ids import SandboxId, SnapshotId
from wrenn.guest import CommandLine
from wrenn.testing import virtual_time
from wrenn.testing.simulation import GuestFaults, ProgramKilled, SimulatedAgent, World, seeded_randomness
from wrenn.vm import Shape

CLIENTS: Final = 3
OPERATIONS: Final = 9
FAULTS: Final = 6
SANDBOXES: Final = 2
"""Of each client."""
REFUSALS: Final = 3
"""After which a client gives a sandbox up."""
KILLED_CALLS: Final = 0.1
"""Calls in which the agent is killed."""
FILE: Final = "/root/file"
SHAPE: Final = Shape(vcpus=1, memory_mb=128)
POINTS: Final = (
    "agent.create.after_slot", "agent.create.after_disk", "agent.create.after_spawn", "agent.create.after_ready",
    "agent.pause.after_journal", "agent.pause.after_hold", "agent.pause.after_freeze", "agent.pause.after_memory",
    "agent.pause.after_manifest", "agent.pause.after_kill", "agent.resume.after_journal", "agent.resume.after_spawn",
    "agent.resume.after_running", "agent.snapshot.after_draft", "agent.snapshot.after_freeze",
    "agent.snapshot.after_overlay", "agent.snapshot.after_thaw", "agent.snapshot.after_manifest",
    "agent.delete.after_journal", "agent.delete.after_kill",
)  # fmt: skip
"""Fault points that are armed to fail."""
DEADLINE_S: Final = 600.0
"""Virtual time in which everything must be in order after the last fault."""

Step = Callable[[Agent], Awaitable[object]]


@dataclass(eq=False)
class Sandbox:
    """What a client knows of a sandbox.

    Attributes:
        values: what its file may contain: what was written last, and what may have been written since.
        paused: what it may have been at its pauses, to which a sandbox falls back whose machine dies.
        is_removed: its removal was asked for.
    """

    spec: SandboxSpec
    values: set[str]
    paused: set[str] = field(default_factory=set[str])
    is_removed: bool = False
    refusals: int = 0
    """Calls in a row that its state did not allow."""

    @property
    def sandbox_id(self) -> SandboxId:
        return self.spec.sandbox_id


class Scenario:
    """One run."""

    def __init__(self, seed: int, folder: Path) -> None:
        self.world = World(seed)
        self.random = self.world.random
        self.agent = SimulatedAgent(self.world, folder)
        self.sandboxes: list[Sandbox] = []
        self.snapshots: list[tuple[SnapshotId, set[str]]] = []
        self.dead: set[SandboxId] = set()
        """Sandboxes whose machines were ended by a fault."""

    async def run(self) -> None:
        """Clients and faults side by side, then order."""
        await self.start_agent()
        restarting = asyncio.create_task(self.restart_agent())
        async with asyncio.TaskGroup() as group:
            for client in range(CLIENTS):
                group.create_task(self.client(client))
            group.create_task(self.faults())
        restarting.cancel()
        await asyncio.wait({restarting})
        self.repair()
        async with asyncio.timeout(DEADLINE_S):
            await self.end_in_order()
        await self.agent.close()
        assert self.world.machines == {}
        await self.world.close()

    async def start_agent(self) -> None:
        """Until one has started."""
        while True:
            try:
                await self.agent.start()
            except ProgramKilled:
                continue
            except FaultInjected:
                self.world.note("agent did not start")
                continue
            self.world.note("agent started")
            return

    async def restart_agent(self) -> None:
        """Start another agent whenever one was killed."""
        while True:
            await asyncio.sleep(0.1)
            if not self.agent.is_running:
                self.world.note("agent killed")
                await self.start_agent()

    def kill_agent(self, *, within: int) -> None:
        """Kill the agent between two of the next turns of the loop."""
        loop = asyncio.get_running_loop()
        assert isinstance(loop, virtual_time.VirtualTimeLoop)
        self.agent.kill_at_step(loop, loop.steps + self.random.randrange(1, within))

    async def client(self, number: int) -> None:
        """Use some sandboxes."""
        own: list[Sandbox] = []
        for _ in range(OPERATIONS):
            await asyncio.sleep(self.random.expovariate(1.0))
            own = [sandbox for sandbox in own if not sandbox.is_removed]
            if len(own) < SANDBOXES and (not own or self.random.random() < 0.3):
                if (made := await self.create(number)) is not None:
                    own.append(made)
                continue
            sandbox = self.random.choice(own)
            operation = self.random.choice(
                [self.execute, self.write, self.write, self.check, self.pause, self.resume, self.snapshot, self.remove]
            )  # fmt: skip
            await (self.remove if sandbox.refusals >= REFUSALS else operation)(number, sandbox)

    async def attempt(self, number: int, what: str, step: Step, sandbox: Sandbox | None = None) -> bool:
        """Make a call, and note how it went. Returns whether it succeeded."""
        while not self.agent.is_ready:
            await asyncio.sleep(0.1)

        async def call(agent: Agent) -> object:
            return await step(agent)

        if self.random.random() < KILLED_CALLS:
            if self.random.random() < 0.5:
                self.agent.kill_at_answer(self.random.randrange(1, 6))
            else:
                self.kill_agent(within=100)
        try:
            await self.agent.call(call)
        except (WrennError, ProgramKilled, FaultInjected, OSError) as error:
            self.world.note(f"client {number}: {what}: {type(error).__name__}")
            if sandbox is not None and isinstance(error, InvalidState):
                sandbox.refusals += 1
            return False
        self.world.note(f"client {number}: {what}: done")
        if sandbox is not None:
            sandbox.refusals = 0
        return True

    async def create(self, number: int) -> Sandbox | None:
        """A new sandbox, or a copy of a snapshot."""
        sandbox_id, origin, values = SandboxId.new(), "", {""}
        if self.snapshots and self.random.random() < 0.5:
            snapshot_id, values = self.random.choice(self.snapshots)
            origin = str(snapshot_id)
        spec = SandboxSpec(sandbox_id, "team", "minimal", SHAPE, {"WHO": str(number)}, origin)
        sandbox = Sandbox(spec, set(values))
        if self.random.random() < 0.02:
            self.world.faults[str(sandbox_id)] = GuestFaults(boots=False)
        for _ in range(2):
            if await self.attempt(
                number, f"create {sandbox_id} {origin}", lambda agent: agent.sandboxes.ensure(spec)
            ):
                self.sandboxes.append(sandbox)
                return sandbox
        return None

    async def execute(self, number: int, sandbox: Sandbox) -> None:
        """Run a program."""
        command = self.random.choice(
            [
                CommandLine("printenv", ["WHO"]),
                CommandLine("sleep", [str(round(self.random.expovariate(0.5), 3))]),
                CommandLine("false"),
            ]
        )

        async def step(agent: Agent) -> None:
            async with agent.sandboxes.use(sandbox.sandbox_id) as running:
                result = await running.commands.run(command, timeout_s=10)
            rubbish = self.world.faults_of(str(sandbox.sandbox_id)).speaks_rubbish
            if command.cmd == "printenv" and not rubbish:
                assert result.stdout == sandbox.spec.envs["WHO"].encode() + b"\n", result

        await self.attempt(number, f"{command.cmd} in {sandbox.sandbox_id}", step, sandbox)

    async def write(self, number: int, sandbox: Sandbox) -> None:
        """Write the file."""
        value = f"{self.random.randrange(10**9)}"
        sandbox.values.add(value)

        async def chunks():
            yield value.encode()

        async def step(agent: Agent) -> None:
            async with agent.sandboxes.use(sandbox.sandbox_id) as running:
                await running.files.write(FILE, chunks(), user="root")

        if await self.attempt(number, f"write {sandbox.sandbox_id}", step, sandbox):
            sandbox.values = {value}

    async def check(self, number: int, sandbox: Sandbox) -> None:
        """Compare the file with what was written."""

        async def step(agent: Agent) -> None:
            async with agent.sandboxes.use(sandbox.sandbox_id) as running:
                await self.compare(agent, sandbox)
                del running

        await self.attempt(number, f"check {sandbox.sandbox_id}", step, sandbox)

    async def compare(self, agent: Agent, sandbox: Sandbox) -> None:
        """Read the file; it contains what it may."""
        try:
            async with agent.sandboxes.get(sandbox.sandbox_id).files.read(FILE, user="root") as download:
                content = b"".join([chunk async for chunk in download.chunks]).decode()
        except NotFound:
            content = ""
        allowed = sandbox.values
        if sandbox.sandbox_id in self.dead:
            allowed = allowed | sandbox.paused
        assert content in allowed, f"{sandbox.sandbox_id} has {content!r}, not one of {sorted(allowed)}"

    async def pause(self, number: int, sandbox: Sandbox) -> None:
        """Pause it."""
        sandbox.paused |= sandbox.values
        await self.attempt(
            number,
            f"pause {sandbox.sandbox_id}",
            lambda agent: agent.sandboxes.pause(sandbox.sandbox_id),
            sandbox,
        )

    async def resume(self, number: int, sandbox: Sandbox) -> None:
        """Resume it."""
        await self.attempt(
            number,
            f"resume {sandbox.sandbox_id}",
            lambda agent: agent.sandboxes.resume(sandbox.sandbox_id),
            sandbox,
        )

    async def snapshot(self, number: int, sandbox: Sandbox) -> None:
        """Take a snapshot."""
        snapshot_id = SnapshotId.new()
        values = set(sandbox.values)
        if await self.attempt(
            number,
            f"snapshot {sandbox.sandbox_id}",
            lambda agent: agent.sandboxes.ensure_snapshot(sandbox.sandbox_id, snapshot_id),
        ):
            if sandbox.sandbox_id in self.dead:
                values |= sandbox.paused
            self.snapshots.append((snapshot_id, set(values)))

    async def remove(self, number: int, sandbox: Sandbox) -> None:
        """Remove it."""
        sandbox.is_removed = True
        await self.attempt(
            number,
            f"remove {sandbox.sandbox_id}",
            lambda agent: agent.sandboxes.remove(sandbox.sandbox_id),
        )

    async def faults(self) -> None:
        """One fault after the other, each for a while."""
        for _ in range(FAULTS):
            await asyncio.sleep(self.random.expovariate(0.5))
            kind = self.random.choice(["kill", "step", "dies", "late", "silent", "rubbish", "calm"])
            name = self.random.choice(sorted(self.world.groups) or ["nobody"])
            self.world.note(f"fault: {kind} {name}")
            match kind:
                case "kill":
                    self.kill_agent(within=400)
                case "step":
                    action = self.random.choice(["error", "enospc", "sleep:2"])
                    arm_faults(f"{self.random.choice(POINTS)}#{self.random.randrange(1, 3)}={action}")
                case "dies":
                    if (process := self.world.groups.get(name)) is not None:
                        self.dead.add(SandboxId.parse(name))
                        self.world.kill(process)
                case "late":
                    self.world.faults_of(name).late_s = self.random.uniform(0.1, 3.0)
                case "silent":
                    self.world.faults_of(name).is_silent = True
                case "rubbish":
                    self.world.faults_of(name).speaks_rubbish = True
                case _:
                    self.repair()

    def repair(self) -> None:
        """End all faults. A machine that did not boot because of one never will."""
        arm_faults("")
        self.world.faults.clear()

    async def use_again(self, agent: Agent, sandbox: Sandbox) -> None:
        """It can be resumed, paused and resumed, and its file is what it may be each time."""
        await agent.sandboxes.resume(sandbox.sandbox_id)
        await self.compare(agent, sandbox)
        await agent.sandboxes.pause(sandbox.sandbox_id)
        await agent.sandboxes.resume(sandbox.sandbox_id)
        await self.compare(agent, sandbox)

    async def end_in_order(self) -> None:
        """Without faults every sandbox has a true state and its file, and what is removed leaves nothing."""
        if not self.agent.is_running:
            await self.start_agent()
        # Another agent, so that also what this one has in memory is on the disk.
        await self.agent.stop()
        await self.start_agent()
        await asyncio.sleep(15)
        known = {sandbox.sandbox_id: sandbox for sandbox in self.sandboxes}
        agent = self.agent.agent()
        for record, _ in agent.sandboxes.list():
            sandbox = known.get(record.spec.sandbox_id)
            self.world.note(f"{record.spec.sandbox_id} is {record.state}")
            if sandbox is None or sandbox.is_removed:
                continue
            if record.state is State.LOST:
                assert sandbox.sandbox_id in self.dead, f"{sandbox.sandbox_id} is lost: {record.reason}"
                continue
            assert record.state in (State.RUNNING, State.PAUSED), f"{sandbox.sandbox_id} is {record.state}"
            await self.agent.call(lambda agent, sandbox=sandbox: self.use_again(agent, sandbox))
        listed = {record.spec.sandbox_id for record, _ in agent.sandboxes.list()}
        for sandbox in self.sandboxes:
            assert sandbox.is_removed or sandbox.sandbox_id in listed, f"{sandbox.sandbox_id} is gone"
        for sandbox_id in listed:
            await self.agent.call(lambda agent, sandbox_id=sandbox_id: agent.sandboxes.remove(sandbox_id))
        for snapshot in agent.sandboxes.list_snapshots():
            agent.sandboxes.remove_snapshot(SnapshotId.parse(snapshot.manifest.snapshot_id))
        with suppress(TimeoutError):
            async with asyncio.timeout(60):
                while leftovers(agent) or self.world.machines or self.world.layers:
                    await asyncio.sleep(1)
        left = leftovers(agent)
        assert not left, left
        assert sorted(self.world.layers) == []
        with suppress(InvalidState):
            assert agent.sandboxes.list() == []


def play(seed: int) -> list[str]:
    """Run the scenario of a seed and return its log."""
    # In memory: most of the CPU time would else be the disk's file system.
    parent = "/dev/shm" if Path("/dev/shm").is_dir() else None
    with tempfile.TemporaryDirectory(prefix="wrenn-simulation-", dir=parent) as folder:
        scenario = Scenario(seed, Path(folder))
        try:
            with seeded_randomness(scenario.random):
                virtual_time.run(scenario.run, scenario.world.new_loop)
        except BaseException as error:
            error.add_note("\n".join(["What happened before:", *scenario.world.log[-40:]]))
            raise
        finally:
            arm_faults("")
        return scenario.world.log
