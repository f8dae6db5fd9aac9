"""Interface to the sandbox registry that the port, stream and exec handlers use."""

from __future__ import annotations

from contextlib import AbstractAsyncContextManager
from typing import Protocol

from wrenn.base.ids import SandboxId
from wrenn.guest import GuestPorts, Processes


class GuestStream(Protocol):
    """A caller's connection with a program in a guest (interface of `wrenn.agent.sandboxes.running.GuestStream`)."""

    @property
    def ports(self) -> GuestPorts:
        """Client for the guest's ports."""
        ...

    @property
    def processes(self) -> Processes:
        """Client for the guest's processes."""
        ...

    def mark_active(self) -> None:
        """Record that bytes passed: the sandbox is in use now."""
        ...

    def mark_open(self, *, is_finite: bool) -> None:
        """Count the stream as activity only when bytes pass. A pause waits for it only if `is_finite`."""
        ...


class StreamOpener(Protocol):
    """Opens streams to programs in sandboxes. Implemented by the sandbox registry."""

    def open_stream(
        self, sandbox_id: SandboxId, /, *, counts_as_active: bool = True
    ) -> AbstractAsyncContextManager[GuestStream]:
        """Return a context with a stream to a program in the running sandbox. Without `counts_as_active` opening it is no use of it."""
        ...
