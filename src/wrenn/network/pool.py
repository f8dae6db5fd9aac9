"""What the agent needs of the network of sandboxes: one slot for each sandbox that runs."""

from __future__ import annotations

from typing import Protocol

from wrenn.network.policy import EgressPolicy


class LeasedSlot(Protocol):
    """A slot that somebody has."""

    @property
    def index(self) -> int:
        """Its number, by which it is found again."""
        ...

    @property
    def address(self) -> str:
        """Where the host reaches the sandbox in it."""
        ...

    def open_tap(self) -> int:
        """A descriptor of its tap device, for one VMM; the caller closes it."""
        ...


class SlotPool(Protocol):
    """The slots of a host. `wrenn.network.slots.Slots` says what each method promises."""

    @property
    def held(self) -> frozenset[int]:
        """Every slot that this pool answers for, the free ones too."""
        ...

    async def start(self, adopted: dict[int, str]) -> None:
        """Take over the machine: keep the slots in `adopted` for their owners, remove all others."""
        ...

    def address(self, index: int) -> str:
        """Where the host reaches the sandbox in this slot."""
        ...

    async def acquire(self, owner: str) -> LeasedSlot:
        """A fresh slot for `owner`. Raises NoCapacity."""
        ...

    async def set_egress(self, index: int, policy: EgressPolicy) -> None:
        """Put `policy` in force for a slot that somebody has. Raises NotFound: nobody has it."""
        ...

    async def release(self, index: int, owner: str) -> None:
        """Give a slot back. Twice is the same as once; one that is somebody else's by now is left alone."""
        ...

    def reset_connections(self, address: str) -> None:
        """Reset this host's connections to the sandbox at `address`. Blocking."""
        ...

    async def close(self) -> None:
        """Remove the free slots. Those that somebody has keep working."""
        ...
