"""A sandbox that runs: its VM, its network address, the way to its guest."""

from __future__ import annotations

from dataclasses import dataclass

from wrenn.base.clock import Clock
from wrenn.guest import Commands, Files, GuestConnection
from wrenn.vm import Vm


@dataclass(slots=True)
class RunningSandbox:
    """What the verbs of a running sandbox need. One object a generation of the VM.

    Attributes:
        address: slot address, reachable from this host only.
        last_active_at: wall time of the last use, seconds.
    """

    vm: Vm
    address: str
    guest: GuestConnection
    last_active_at: float

    @property
    def commands(self) -> Commands:
        """Programs in the guest."""
        return Commands(self.guest)

    @property
    def files(self) -> Files:
        """Files in the guest."""
        return Files(self.guest)

    def touch(self, clock: Clock) -> None:
        """It is being used now."""
        self.last_active_at = clock.now().timestamp()
