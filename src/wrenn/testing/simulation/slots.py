"""Network slots of a simulated world: each is an address in its network."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from wrenn.base.errors import Conflict, NoCapacity, NotFound
from wrenn.base.faults import fault_point
from wrenn.linux.link_counters import LinkCounters
from wrenn.linux.tap import NamedTap
from wrenn.network.policy import EgressPolicy
from wrenn.testing.simulation.runs import require_alive
from wrenn.testing.simulation.world import World

SLOTS: Final = 254


@dataclass(frozen=True, slots=True)
class MemorySlot:
    """A slot that is taken. Implements `wrenn.network.pool.LeasedSlot`."""

    index: int
    address: str

    def give_tap(self, uid: int) -> NamedTap:
        """Raise an error: there is no tap device."""
        del uid
        raise AssertionError("a simulated slot has no tap")

    def open_tap(self) -> int:
        """Raise an error: there is no tap device."""
        raise AssertionError("a simulated slot has no tap")


class MemorySlots:
    """The slots of one agent. Implements `wrenn.network.pool.SlotPool`.

    Attributes:
        policies: the egress policies of taken slots that were given one.
    """

    def __init__(self, world: World) -> None:
        self._world = world
        self._taken: dict[int, str] = {}
        self._last_index = 0
        self.policies: dict[int, EgressPolicy] = {}

    @property
    def held(self) -> frozenset[int]:
        """The taken slots: none is prepared in advance."""
        return frozenset(self._taken)

    async def start(self, adopted: dict[int, str]) -> None:
        """Keep the slots in `adopted`."""
        await self._world.act(0.001, 0.02)
        for index, owner in adopted.items():
            if index in self._taken:
                raise Conflict(f"Network slot {index} is already in use.")
            self._taken[index] = owner

    def address(self, index: int) -> str:
        """Return the address of a slot."""
        return f"10.0.0.{index}"

    async def acquire(self, owner: str) -> MemorySlot:
        """Take the next free slot."""
        await self._world.act(0.0005, 0.01)
        for _ in range(SLOTS):
            self._last_index = index = self._last_index % SLOTS + 1
            if index not in self._taken:
                self._taken[index] = owner
                return MemorySlot(index, self.address(index))
        raise NoCapacity(f"All {SLOTS} network slots of this host are in use.")

    async def set_egress(self, index: int, policy: EgressPolicy) -> None:
        """Record the policy."""
        await self._world.act(0.0005, 0.01)
        if index not in self._taken:
            raise NotFound(f"Network slot {index} is not in use.")
        await fault_point("network.egress.before")
        self.policies[index] = policy

    async def release(self, index: int, owner: str) -> None:
        """Release a slot."""
        await self._world.act(0.0005, 0.01)
        if self._taken.get(index) == owner:
            del self._taken[index]
            self.policies.pop(index, None)

    def counters(self, index: int) -> LinkCounters | None:
        """Return None: there is no link that counts."""
        del index

    def reset_connections(self, address: str) -> None:
        """Abort this host's connections to the address."""
        require_alive()
        self._world.network.reset(address)

    async def close(self) -> None:
        """Do nothing: there are no resources."""
