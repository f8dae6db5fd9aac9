"""Interface to one running VM."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from wrenn.linux.process import ProcessRef
from wrenn.linux.process_usage import ProcessUsage


@dataclass(frozen=True, slots=True)
class MachineHandle:
    """What identifies a VM across restarts of the agent; stored in the journal.

    Attributes:
        process: the process that ends when the machine does, and with which the machine ends.
        directory: folder of its control socket and log.
    """

    process: ProcessRef
    directory: Path


class Machine(Protocol):
    """A running VM. Its methods raise `AgentFailure` when the VMM fails or has ended."""

    @property
    def handle(self) -> MachineHandle:
        """What identifies this VM across restarts of the agent."""
        ...

    async def note_guest_ready(self) -> None:
        """Take note that the guest has answered after its start, so that later starts can profit from this one. Never raises."""
        ...

    async def suspend(self, *, flush: bool = True) -> None:
        """Stop the vCPUs; all data that the guest wrote is then in its layer. Idempotent.

        Without `flush` the data may be in memory of the host yet, and nothing waits for the host's disk.

        Raises:
            StorageFull: the host's disk has no space for the data. The vCPUs are stopped.
        """
        ...

    async def unsuspend(self) -> None:
        """Let a suspended VM continue. Ignored if it runs."""
        ...

    async def switch_layer(self, layer_id: str) -> None:
        """Write to the new layer `layer_id` from now on; the former one becomes read-only.

        The layer was created over those that the machine has. If this fails, `written_layer` says which one is written.
        """
        ...

    async def written_layer(self) -> str:
        """Return the id of the layer that the VM writes to, as reported by the VMM itself."""
        ...

    async def merge_layers(self) -> None:
        """Copy the frozen layers above the base's disk into the written layer; returns when none is left between them.

        Only with `Capabilities.merges_layers`. The machine keeps running meanwhile. A cancellation stops the merge, which is
        harmless. `suspend` and `switch_layer` stop it too.
        """
        ...

    async def grow_disk(self, size_b: int) -> None:
        """Enlarge the disk to `size_b` and notify the guest. Idempotent."""
        ...

    async def console(self) -> str:
        """Return the end of the guest's console output, at most 64 KiB."""
        ...

    def log_tail(self) -> str:
        """Return the end of the VMM's log, at most some kilobytes."""
        ...

    async def maintain(self, *, may_unsuspend: bool) -> bool:
        """Do the periodic maintenance of a running VM: truncate its log and check whether it stopped.

        With `may_unsuspend`, a VM that has stopped, as it does on a full disk, continues; returns whether it had stopped. Must
        not be called while it is suspended on purpose.
        """
        ...

    def usage(self) -> ProcessUsage | None:
        """Return CPU time and resident memory of the VM's processes; None if it has ended. Takes microseconds, and may be called in any thread."""
        ...

    def proportional_b(self) -> int | None:
        """Return the memory of the VM's processes in bytes, with shared pages divided among those who share them; None if it has ended.

        Blocking: takes about a millisecond for each gigabyte. May be called in any thread.
        """
        ...

    def disconnect(self) -> None:
        """Close the connection to the VMM; the VM keeps running."""
        ...

    async def kill(self) -> None:
        """Kill all processes of the VM and wait until they have exited. Idempotent."""
        ...

    async def wait_exit(self) -> None:
        """Return when the VM has ended, for whatever reason. Has no timeout."""
        ...
