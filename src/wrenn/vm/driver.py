"""What a VM driver promises. The agent knows only this page.

A VM is started in one of two ways: `boot` (cold, once per template and shape, guest memory in a file that becomes the
base) and `restore` (every sandbox: a memory image mapped privately, device state loaded, running at once). Its process
outlives the agent; `adopt` finds it again.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from wrenn.linux.process import ProcessRef
from wrenn.linux.process_memory import ProcessMemory
from wrenn.linux.spawn import Confinement

__all__ = ["BootRequest", "Confinement", "Disk", "RestoreRequest", "Shape", "Vm", "VmDriver", "VmHandle"]


@dataclass(frozen=True, slots=True, order=True)
class Shape:
    """Size of a VM. A snapshot can only be restored in the shape it was made in."""

    vcpus: int
    memory_mb: int


@dataclass(frozen=True, slots=True)
class Disk:
    """The layers of a root disk: `overlay` is written, the rest only read.

    Attributes:
        overlay: qcow2 file of this VM alone. The stem of its name is what `Vm.overlay` answers.
        frozen: qcow2 files under it, newest first.
        image: the template's raw image.
    """

    overlay: Path
    frozen: tuple[Path, ...]
    image: Path


@dataclass(frozen=True, slots=True)
class BootRequest:
    """A cold boot. `memory` is an empty sparse file of the shape's size that will hold the guest's RAM."""

    directory: Path
    shape: Shape
    disk: Disk
    memory: Path
    kernel: Path
    initramfs: Path
    kernel_args: str
    tap_fd: int
    confinement: Confinement


@dataclass(frozen=True, slots=True)
class RestoreRequest:
    """A restore.

    Attributes:
        memory_fd: sealed memory image; its memfd is named `wrenn-…`.
        state: device state.
        fill: blocking; writes into the VM's memory before the device state is loaded. An error of it ends the VM.
    """

    directory: Path
    shape: Shape
    disk: Disk
    memory_fd: int
    state: Path
    tap_fd: int
    confinement: Confinement
    fill: Callable[[ProcessMemory], None] | None = None


@dataclass(frozen=True, slots=True)
class VmHandle:
    """What the journal keeps to find a VM again.

    Attributes:
        process: the VMM.
        directory: folder of its control socket and log.
    """

    process: ProcessRef
    directory: Path


class Vm(Protocol):
    """A running VM. Its methods raise `AgentFailure` when the VMM does not do what it is told."""

    @property
    def handle(self) -> VmHandle:
        """How to find it again."""
        ...

    async def freeze(self) -> None:
        """Stop the vCPUs; all that the guest wrote is in the files then."""
        ...

    async def thaw(self) -> None:
        """Let a frozen VM run on. One that runs is fine."""
        ...

    def memory(self) -> ProcessMemory:
        """The guest's RAM in the VMM; to be read while it is frozen.

        Raises:
            AgentFailure: the VMM is gone.
        """
        ...

    async def save_state(self, path: Path) -> None:
        """Write the device state of the frozen VM to a new file."""
        ...

    async def put_overlay(self, overlay: Path) -> None:
        """Have the VM write to the new qcow2 file `overlay` from now on; what it wrote until now only reads."""
        ...

    async def overlay(self) -> str:
        """Name of the overlay that the VM writes to."""
        ...

    async def merge_layers(self) -> None:
        """Copy what lies between its overlay and the base's disk into the overlay; returns when nothing lies there.

        The VM runs on meanwhile. A cancellation stops it; what was copied is no harm. `freeze` and `put_overlay` end
        it too.
        """
        ...

    async def grow_disk(self, size_b: int) -> None:
        """Make its disk this large, and tell the guest. One that is so large is fine; the file grows when it is written."""
        ...

    async def console(self) -> str:
        """The end of the serial console, at most 64 KiB."""
        ...

    def log_tail(self) -> str:
        """The end of the VMM's own messages."""
        ...

    async def look_after(self, *, may_go_on: bool) -> bool:
        """Do what a running VM needs every few seconds: what its VMM logs is kept small.

        With `may_go_on` one that has stopped, as it does on a full disk, runs on; returns whether it had. Not to be called
        while it is frozen on purpose.
        """
        ...

    def disconnect(self) -> None:
        """Let go of the VMM without disturbing it: the agent ends and the VM runs on."""
        ...

    async def kill(self) -> None:
        """End the VMM and wait until it is gone. Twice is the same as once."""
        ...

    async def wait_exit(self) -> None:
        """Return when the VMM has ended, for whatever reason. No deadline of its own."""
        ...


class VmDriver(Protocol):
    """Starts VMs with one kind of VMM."""

    @property
    def vmm(self) -> str:
        """Name and version, part of what a snapshot is bound to, e.g. `qemu 7.2.22`."""
        ...

    @property
    def accelerator(self) -> str:
        """`kvm` or `tcg` (software emulation)."""
        ...

    @property
    def machine(self) -> str:
        """Everything else that a snapshot is bound to: machine type, CPU model, device list."""
        ...

    async def boot(self, request: BootRequest) -> Vm:
        """Start a cold boot; returns when the VMM runs, not when the guest is up."""
        ...

    async def restore(self, request: RestoreRequest) -> Vm:
        """Start a restore; returns when the VMM was started and its memory filled. Whether it runs, the guest says."""
        ...

    async def adopt(self, handle: VmHandle) -> Vm | None:
        """The VM of a former agent, or None when it no longer runs."""
        ...
