"""Interface of the agent to the network of sandboxes: one slot for each running sandbox."""

from __future__ import annotations

from typing import Protocol

from wrenn.linux.link_counters import LinkCounters
from wrenn.linux.tap import NamedTap
from wrenn.network.policy import EgressPolicy


class LeasedSlot(Protocol):
    """A slot that is taken."""

    @property
    def index(self) -> int:
        """Its number, which identifies it."""
        ...

    @property
    def address(self) -> str:
        """The address at which the host reaches the sandbox in it."""
        ...

    def open_tap(self) -> int:
        """Open its tap device for one VMM; the caller closes the descriptor."""
        ...

    def give_tap(self, uid: int) -> NamedTap:
        """Let one VMM's user open its tap device by name, and return where it is."""
        ...


class SlotPool(Protocol):
    """The slots of a host. `wrenn.network.slots.Slots` documents each method in detail."""

    @property
    def held(self) -> frozenset[int]:
        """All slots that this pool manages, including the free ones."""
        ...

    async def start(self, adopted: dict[int, str]) -> None:
        """Adopt the slots in `adopted` for their owners, and remove all others."""
        ...

    def address(self, index: int) -> str:
        """Return the address at which the host reaches the sandbox in this slot."""
        ...

    async def acquire(self, owner: str) -> LeasedSlot:
        """Take a new slot for `owner`. Raises NoCapacity."""
        ...

    async def set_egress(self, index: int, policy: EgressPolicy) -> None:
        """Apply `policy` to a taken slot. Raises NotFound if it is not taken."""
        ...

    async def release(self, index: int, owner: str) -> None:
        """Release a slot. Idempotent; a slot that has another owner by now is not touched."""
        ...

    def reset_connections(self, address: str) -> None:
        """Reset this host's connections to the sandbox at `address`. Blocking."""
        ...

    def counters(self, index: int) -> LinkCounters | None:
        """Return what the host received from and sent to the sandbox in this slot; None: that is not counted, or the slot is gone."""
        ...

    async def close(self) -> None:
        """Remove the free slots. Taken slots keep working."""
        ...
