"""Slots without networks, for tests: each is one loopback address. Egress policies are only recorded.

Only `wrenn.testing` and the tests may use it.
"""

from __future__ import annotations

import os
import secrets
import socket
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from wrenn.base.errors import Conflict, NoCapacity, NotFound
from wrenn.base.faults import fault_point
from wrenn.linux.connections import reset_connections
from wrenn.linux.link_counters import LinkCounters
from wrenn.linux.tap import NamedTap
from wrenn.network.policy import EgressPolicy

_SLOTS: Final = 254
_NET: Final = "loopback"
"""File in the data folder with the network of an installation."""


@dataclass(frozen=True, slots=True)
class LoopbackSlot:
    """A slot that is a loopback address (`wrenn.network.pool.LeasedSlot`)."""

    index: int
    address: str

    def open_tap(self) -> int:
        """Raise an error: there is no tap device."""
        raise AssertionError("a simulated slot has no tap")

    def give_tap(self, uid: int) -> NamedTap:
        """Raise an error: there is no tap device."""
        del uid
        raise AssertionError("a simulated slot has no tap")


class LoopbackSlots:
    """A random 127.x.y.0/24 for one installation (`wrenn.network.pool.SlotPool`).

    Attributes:
        policies: the egress policies of taken slots that were given one.
    """

    def __init__(self, data_dir: Path, *, port: int) -> None:
        self._net = _network_of(data_dir)
        self._port = port
        self._taken: dict[int, str] = {}
        self._last_index = 0
        self.policies: dict[int, EgressPolicy] = {}

    @property
    def held(self) -> frozenset[int]:
        """The taken slots: none is prepared in advance."""
        return frozenset(self._taken)

    async def start(self, adopted: dict[int, str]) -> None:
        """Keep the slots in `adopted`; others need not be removed."""
        for index, owner in adopted.items():
            if index in self._taken:
                raise Conflict(f"Network slot {index} is already in use.")
            self._taken[index] = owner

    def address(self, index: int) -> str:
        """Return an address of this network."""
        return f"{self._net}.{index}"

    async def acquire(self, owner: str) -> LoopbackSlot:
        """Take the next free slot whose address is not in use by another program on this machine."""
        for _ in range(_SLOTS):
            self._last_index = self._last_index % _SLOTS + 1
            index = self._last_index
            if index not in self._taken and self._is_free(self.address(index)):
                self._taken[index] = owner
                return LoopbackSlot(index, self.address(index))
        raise NoCapacity(f"All {_SLOTS} network slots of this host are in use.")

    def _is_free(self, address: str) -> bool:
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((address, self._port))
            except OSError:
                return False
            return True

    async def set_egress(self, index: int, policy: EgressPolicy) -> None:
        """Record the policy."""
        if index not in self._taken:
            raise NotFound(f"Network slot {index} is not in use.")
        await fault_point("network.egress.before")
        self.policies[index] = policy

    async def release(self, index: int, owner: str) -> None:
        """Release a slot."""
        if self._taken.get(index) == owner:
            del self._taken[index]
            self.policies.pop(index, None)

    def counters(self, index: int) -> LinkCounters | None:
        """Return None: there is no link that counts."""
        del index

    def reset_connections(self, address: str) -> None:
        """Reset this host's connections to the address. Without root they end together with the guest agent."""
        if os.geteuid() == 0:
            reset_connections(address)

    async def close(self) -> None:
        """Do nothing: there are no resources."""


def _network_of(data_dir: Path) -> str:
    file = data_dir / _NET
    if not file.exists():
        # 127.0.0.0/16 is left to servers of the machine.
        file.write_text(f"127.{1 + secrets.randbelow(254)}.{secrets.randbelow(256)}")
    return file.read_text()
