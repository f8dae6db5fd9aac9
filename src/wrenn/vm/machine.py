"""One running virtual machine, as the agent sees it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from wrenn.linux.process import ProcessRef


@dataclass(frozen=True, slots=True)
class MachineHandle:
    """What the journal keeps to find a machine again.

    Attributes:
        process: the process that ends when the machine does, and with which the machine ends.
        directory: folder of its control socket and log.
    """

    process: ProcessRef
    directory: Path


class Machine(Protocol):
    """A running machine. Its methods raise `AgentFailure` when it does not do what it is told."""

    @property
    def handle(self) -> MachineHandle:
        """How to find it again."""
        ...

    async def suspend(self) -> None:
        """Stop the guest; all that it wrote is in its layer then. A frozen machine stays frozen."""
        ...

    async def unsuspend(self) -> None:
        """Let a frozen machine run on. One that runs is fine."""
        ...

    async def switch_layer(self, layer_id: str) -> None:
        """Write to this new layer from now on; what was written until now is only read.

        The layer was created over those that the machine has. If this fails, `written_layer` says which one is written.
        """
        ...

    async def written_layer(self) -> str:
        """Id of the layer that the machine writes to. The machine itself is asked, not a record."""
        ...

    async def merge_layers(self) -> None:
        """Copy what lies between its layer and the base's disk into its layer; returns when nothing lies there.

        Only where `Capabilities.merges_layers`. The machine runs on meanwhile. A cancellation stops it; what was copied is no
        harm. `freeze` and `switch_layer` end it too.
        """
        ...

    async def grow_disk(self, size_b: int) -> None:
        """Make its disk this large, and tell the guest. One that is so large is fine; the layer grows when it is written."""
        ...

    async def console(self) -> str:
        """The end of what the guest wrote to its console, at most 64 KiB."""
        ...

    def log_tail(self) -> str:
        """The end of the VMM's own messages, at most some kilobytes."""
        ...

    async def maintain(self, *, may_unsuspend: bool) -> bool:
        """Do what a running machine needs every few seconds: what its VMM logs is kept small.

        With `may_unsuspend` one that has stopped, as it does on a full disk, runs on; returns whether it had. Not to be called
        while it is frozen on purpose.
        """
        ...

    def disconnect(self) -> None:
        """Let go of the machine without disturbing it: the agent ends and the machine runs on."""
        ...

    async def kill(self) -> None:
        """End the machine with all its processes and wait until they are gone. Twice is the same as once."""
        ...

    async def wait_exit(self) -> None:
        """Return when the machine has ended, for whatever reason. No deadline of its own."""
        ...
