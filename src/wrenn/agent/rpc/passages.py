"""What is asked of whoever knows the sandboxes, where a caller's bytes pass to and from a program in one of them."""

from __future__ import annotations

from contextlib import AbstractAsyncContextManager
from typing import Protocol

from wrenn.base.ids import SandboxId
from wrenn.guest import GuestPorts, Processes


class Passage(Protocol):
    """As agent/sandboxes/running.py has it."""

    @property
    def ports(self) -> GuestPorts:
        """The way to the guest's ports."""
        ...

    @property
    def processes(self) -> Processes:
        """The way to the guest's processes."""
        ...

    def moved(self) -> None:
        """Bytes passed."""
        ...

    def opened(self, *, has_end: bool) -> None:
        """The other end goes on without it from here."""
        ...


class Reach(Protocol):
    """Who knows the sandboxes."""

    def pass_through(self, sandbox_id: SandboxId, /) -> AbstractAsyncContextManager[Passage]:
        """A connection with a program in the running sandbox."""
        ...
