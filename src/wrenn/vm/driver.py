"""What a VM driver promises. The agent knows only this page and those of the parts that it names.

A driver has four parts: it starts machines (`machine.py`), keeps the layers of their disks (`disks.py`), what they remember
(`memory.py`), and the bases that they are restored from (`bases.py`). A machine is started in one of two ways: `boot` (cold, once
per template and shape, into the folder of a base) and `restore` (every sandbox). It outlives the agent; `adopt` finds it again.
docs/design/drivers.md says who owns which file, and what holds after each failure.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from wrenn.linux.spawn import Confinement
from wrenn.storage.images import Images
from wrenn.vm.bases import BaseStore
from wrenn.vm.disks import DiskChain, DiskRef
from wrenn.vm.machine import Machine, MachineHandle
from wrenn.vm.memory import ImageRef, MemoryImages


@dataclass(frozen=True, slots=True, order=True)
class Shape:
    """Size of a machine. A snapshot can only be restored in the shape it was made in."""

    vcpus: int
    memory_mb: int


@dataclass(frozen=True, slots=True)
class Capabilities:
    """What not every driver can do.

    Attributes:
        keeps_memory: what ran in a guest goes on after it was saved and restored. Without it only the disk is kept, and a
            restored guest starts anew: nothing of it needs to stand still before it is saved.
        merges_layers: `Machine.merge_layers` works, so that a disk does not become ever slower.
        sized_disks: a disk has a size, and a guest's file system must be grown after `Machine.grow_disk`.
    """

    keeps_memory: bool
    merges_layers: bool
    sized_disks: bool


class Link(Protocol):
    """The network of one machine."""

    @property
    def address(self) -> str:
        """Where the host reaches the guest."""
        ...

    def open_tap(self) -> int:
        """A descriptor of the tap device, for one VMM; the caller closes it."""
        ...


@dataclass(frozen=True, slots=True)
class BootRequest:
    """A cold boot into `directory`, the folder of a base to be: everything that the base consists of is made there."""

    directory: Path
    shape: Shape
    images: Images
    kernel_args: str
    link: Link
    confinement: Confinement


@dataclass(frozen=True, slots=True)
class RestoreRequest:
    """A restore.

    Attributes:
        directory: folder of the machine's socket and log.
        disk: its layers, all of them created.
        image: memory image that it runs on from now on.
        saved: snapshot that lies on `image`, from whose memory and state it goes on; empty: from those of `image` itself.
    """

    directory: Path
    shape: Shape
    disk: DiskRef
    image: ImageRef
    link: Link
    confinement: Confinement
    saved: str = ""


class Driver(Protocol):
    """Starts machines with one kind of VMM, and keeps what they are restored from."""

    @property
    def vmm(self) -> str:
        """Name and version, part of what a snapshot is bound to, e.g. `qemu 7.2.22`."""
        ...

    @property
    def accelerator(self) -> str:
        """`kvm`, `tcg` (software emulation), or `none` (no virtual machine)."""
        ...

    @property
    def machine(self) -> str:
        """Everything else that a snapshot is bound to: machine type, CPU model, device list."""
        ...

    @property
    def capabilities(self) -> Capabilities:
        """What it can do."""
        ...

    @property
    def disks(self) -> DiskChain:
        """The layers of root disks."""
        ...

    @property
    def memory(self) -> MemoryImages:
        """Saved memory, and the images that machines run on."""
        ...

    @property
    def bases(self) -> BaseStore:
        """The stored bases."""
        ...

    async def boot(self, request: BootRequest) -> Machine:
        """Start a cold boot; returns when the VMM runs, not when the guest is up."""
        ...

    async def save_boot(self, machine: Machine, request: BootRequest) -> None:
        """Freeze a machine that was booted and write what its base still lacks; the machine can then be killed."""
        ...

    async def restore(self, request: RestoreRequest) -> Machine:
        """Start a restore; returns when the VMM was started and its memory filled. Whether it runs, the guest says.

        Raises:
            DamagedBase, DamagedSnapshot: what it starts from is not what was saved. AgentFailure: it did not start.
        """
        ...

    async def adopt(self, handle: MachineHandle) -> Machine | None:
        """The machine of a former agent, or None when it no longer runs."""
        ...

    async def close(self) -> None:
        """Let go of what the driver holds; machines run on."""
        ...
