"""What is asked of whoever knows the sandboxes, where a caller's bytes pass to and from a program in one of them."""

from __future__ import annotations

from contextlib import AbstractAsyncContextManager
from typing import Protocol

from wrenn.base.ids import SandboxId
from wrenn.guest import GuestPorts, Processes


class GuestStream(Protocol):
    """As agent/sandboxes/running.py has it."""

    @property
    def ports(self) -> GuestPorts:
        """The way to the guest's ports."""
        ...

    @property
    def processes(self) -> Processes:
        """The way to the guest's processes."""
        ...

    def mark_active(self) -> None:
        """Bytes passed."""
        ...

    def mark_open(self, *, is_finite: bool) -> None:
        """The other end goes on without it from here."""
        ...


class StreamOpener(Protocol):
    """Who knows the sandboxes."""

    def open_stream(self, sandbox_id: SandboxId, /) -> AbstractAsyncContextManager[GuestStream]:
        """A connection with a program in the running sandbox."""
        ...
