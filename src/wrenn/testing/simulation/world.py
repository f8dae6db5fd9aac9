"""A machine in memory on which agents run one after the other: guests, disks and a network that outlive each agent.

A `World` belongs to one `NetworkLoop`. Everything that is random in it comes from its seed, or from a source that several share.
"""

from __future__ import annotations

import asyncio
import os
import random as random_module
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Final
from unittest.mock import patch

from wrenn.base.tasks import OwnedTasks
from wrenn.linux.process import ProcessRef
from wrenn.testing.simulation.guest import Guest, GuestFaults, GuestMemory
from wrenn.testing.simulation.network import Network, NetworkLoop
from wrenn.testing.simulation.runs import require_alive
from wrenn.testing.simulation.tree import Tree
from wrenn.testing.virtual_time import VirtualClock
from wrenn.vm.driver import RestoreRequest

_FIRST_PID: Final = 1 << 23
"""Above all pids that Linux gives, so that no real process is meant."""


@dataclass(slots=True)
class Layer:
    """A layer of a disk: all files, not a difference."""

    tree: Tree
    size_b: int


@dataclass(slots=True, eq=False)
class VirtualMachine:
    """A machine that runs, or has run.

    Attributes:
        name: of its sandbox.
        layer_id: the layer that it writes.
        is_suspended: its virtual CPUs stand still.
        ended: set when it has ended.
    """

    name: str
    process: ProcessRef
    address: str
    layer_id: str
    guest: Guest
    log: Path
    is_suspended: bool = False
    ended: asyncio.Event = field(default_factory=asyncio.Event)


class World:
    """The machine.

    Attributes:
        random: the source of all randomness.
        clock: the virtual time.
        network: between agents and guests.
        layers: all disks.
        machines: that run, by process.
        groups: the process of each confined name, if it has one.
        faults: what is wrong with guests, by the name of their sandbox.
        log: what happened, in order.
        on_start: called when a machine has been started.
    """

    def __init__(self, seed: int | Random, clock: VirtualClock | None = None) -> None:
        self.random = seed if isinstance(seed, Random) else Random(seed)  # noqa: S311 - it is to be predictable
        self.clock = clock or VirtualClock()
        self.network = Network(lambda: self.random.uniform(0.00005, 0.002))
        self.layers: dict[str, Layer] = {}
        self.machines: dict[ProcessRef, VirtualMachine] = {}
        self.groups: dict[str, ProcessRef | None] = {}
        self.faults: dict[str, GuestFaults] = {}
        self.log: list[str] = []
        self.on_start: Callable[[], object] = lambda: None
        self._next_pid = _FIRST_PID
        self._answers_left = 0
        self._on_answer: Callable[[], object] = lambda: None
        self._tasks = OwnedTasks()

    def new_loop(self) -> NetworkLoop:
        """Return the loop in which this world exists."""
        return NetworkLoop(
            lambda _address: self.network, require_alive, lambda: self.random.uniform(0.0001, 0.02)
        )

    def note(self, event: str) -> None:
        """Add a line with the time to the log."""
        self.log.append(f"{asyncio.get_running_loop().time():12.6f} {event}")

    def faults_of(self, name: str) -> GuestFaults:
        """Return what is wrong with a guest, to be changed at any time."""
        return self.faults.setdefault(name, GuestFaults())

    async def act(self, low_s: float, high_s: float) -> None:
        """Let the time pass that something takes on the machine. Raises AgentFailure in an agent that was killed."""
        require_alive()
        await asyncio.sleep(self.random.uniform(low_s, high_s))
        require_alive()

    async def answer(self) -> None:
        """Let the time pass in which something has taken effect and the agent does not know yet."""
        if self._answers_left > 0:
            self._answers_left -= 1
            if self._answers_left == 0:
                self._on_answer()
        await self.act(0.0001, 0.002)

    def call_at_answer(self, count: int, callback: Callable[[], object]) -> None:
        """Call `callback` at the `count`-th next moment at which something has taken effect and the agent does not know yet.

        Only one is remembered.
        """
        self._answers_left, self._on_answer = count, callback

    def start(self, request: RestoreRequest, memory: GuestMemory) -> VirtualMachine:
        """Start a machine, whose guest boots from now on."""
        name = request.confinement.cgroup_procs[0].name
        process = ProcessRef(self._next_pid, 1)
        self._next_pid += 1
        layer = self.layers[request.disk.layers[0]]
        guest = Guest(memory, layer.tree, layer.size_b, lambda: self.faults_of(name), self.random)
        address = request.link.address
        machine = VirtualMachine(
            name, process, address, request.disk.layers[0], guest, request.directory / "vmm.log"
        )
        self.machines[process] = machine
        self.groups[name] = process
        self.network.listen(address, guest)
        self._tasks.start(f"boot {name}", self._boot(machine))
        self.on_start()
        return machine

    async def _boot(self, machine: VirtualMachine) -> None:
        await asyncio.sleep(self.random.uniform(0.01, 0.3))
        if machine.guest.faults.boots and not machine.ended.is_set() and not machine.is_suspended:
            machine.guest.run(running=True)

    def kill(self, process: ProcessRef) -> None:
        """End a machine. Idempotent."""
        if (machine := self.machines.pop(process, None)) is not None:
            machine.guest.end()
            self.network.vanish(machine.address, machine.guest)
            machine.ended.set()

    def kill_later(self, name: str, after_s: float) -> None:
        """End the machine of a sandbox by itself after this time, if it still runs then."""
        process = self.groups.get(name)
        if process is not None:
            asyncio.get_running_loop().call_later(after_s, self.kill, process)

    async def close(self) -> None:
        """End everything."""
        for process in list(self.machines):
            self.kill(process)
        await self._tasks.close()


@contextmanager
def seeded_randomness(random: Random) -> Generator[None]:
    """Have the operating system's randomness, and with it all ids and tokens, come from `random`.

    It replaces the standard library's source of it, so that no product code has a switch for that.
    """

    def urandom(size: int) -> bytes:
        return random.randbytes(size)

    with patch.object(os, "urandom", urandom), patch.object(random_module, "_urandom", urandom):
        yield
