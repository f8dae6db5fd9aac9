"""Interface of a VM driver. The agent depends only on this module and those that it imports.

A driver starts machines (`machine.py`) and stores the layers of their disks (`disks.py`), their memory
(`memory.py`), and the bases that they are restored from (`bases.py`). A machine is started by `boot` (cold, once
per template and shape, into the folder of a base) or by `restore` (every sandbox, also one that boots from its own
disk because its memory was not saved). It survives the agent; `adopt` finds it again.
docs/design/drivers.md says who owns which file, and what holds after each failure.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from wrenn.linux.process import ProcessRef
from wrenn.linux.spawn import Confinement
from wrenn.linux.tap import NamedTap
from wrenn.storage.images import Images
from wrenn.vm.bases import BaseStore
from wrenn.vm.disks import DiskChain, DiskRef
from wrenn.vm.machine import Machine, MachineHandle
from wrenn.vm.memory import ImageRef, MemoryImages


@dataclass(frozen=True, slots=True, order=True)
class Shape:
    """Size of a VM. A snapshot can only be restored in the shape in which it was saved."""

    vcpus: int
    memory_mb: int


@dataclass(frozen=True, slots=True)
class Capabilities:
    """Features that not every driver has.

    Attributes:
        keeps_memory: memory and processes are saved and restored. Without it only the disk is saved, and a
            restored guest boots anew, so its processes need not be frozen before.
        merges_layers: `Machine.merge_layers` works, so that a disk does not become ever slower.
        sized_disks: a disk has a size, and a guest's file system must be grown after `Machine.grow_disk`.
    """

    keeps_memory: bool
    merges_layers: bool
    sized_disks: bool


class Link(Protocol):
    """The network of one VM."""

    @property
    def address(self) -> str:
        """Address at which the host reaches the guest."""
        ...

    def open_tap(self) -> int:
        """Open the tap device for one VMM and return the descriptor, which the caller closes."""
        ...

    def give_tap(self, uid: int) -> NamedTap:
        """Let the user `uid` of one VMM open the tap device by name, and return where it is."""
        ...


@dataclass(frozen=True, slots=True)
class BootSource:
    """What a machine boots from, besides its disk."""

    kernel: Path
    initramfs: Path
    kernel_args: str


@dataclass(frozen=True, slots=True)
class BootRequest:
    """Parameters of a cold boot. All files of the new base are made in `directory`."""

    directory: Path
    shape: Shape
    images: Images
    kernel_args: str
    link: Link
    confinement: Confinement


@dataclass(frozen=True, slots=True)
class RestoreRequest:
    """Parameters of a restore.

    Attributes:
        directory: folder of the machine's socket and log.
        disk: its layers, all of them created.
        image: memory image that it runs on.
        saved: snapshot on top of `image` whose memory and state it continues with; empty for those of `image` itself.
        boot: it boots from its disk instead of continuing. `image` is then a base, over which its memory is saved later;
            `saved` is empty.
        metadata: what the guest may read about itself, from a VMM that offers that.
    """

    directory: Path
    shape: Shape
    disk: DiskRef
    image: ImageRef
    link: Link
    confinement: Confinement
    saved: str = ""
    boot: BootSource | None = None
    metadata: Mapping[str, str] = field(default_factory=dict[str, str])


@dataclass(frozen=True, slots=True)
class FlattenRequest:
    """Parameters of making an image of a disk.

    Attributes:
        disk: it is not written: its machine is paused, and all its layers are frozen.
        size_b: of the disk.
        image: file to create. Other files that are needed meanwhile are made in its folder.
        confinement: of the program that reads the layers, which a compromised VMM may have written.
        on_progress: called from time to time with the bytes that were done, and how many there are in all.
    """

    disk: DiskRef
    size_b: int
    image: Path
    confinement: Confinement
    on_progress: Callable[[int, int], None]


class Driver(Protocol):
    """Starts VMs with one kind of VMM, and stores the disks, memory and bases that they are restored from."""

    @property
    def vmm(self) -> str:
        """Name and version of the VMM, e.g. `qemu 7.2.22`. A snapshot can only be restored with the same one."""
        ...

    @property
    def accelerator(self) -> str:
        """`kvm`, `tcg` (software emulation), or `none` (no virtual machine)."""
        ...

    @property
    def machine(self) -> str:
        """Machine type, CPU model and device list. A snapshot can only be restored on the same ones."""
        ...

    @property
    def shows_host_cpu(self) -> bool:
        """Whether guests see the processor of this machine. Then a snapshot can only be restored on the same processor."""
        ...

    @property
    def capabilities(self) -> Capabilities:
        """The features of this driver."""
        ...

    @property
    def disks(self) -> DiskChain:
        """The layers of root disks."""
        ...

    @property
    def memory(self) -> MemoryImages:
        """Saved memory, and the memory images of running VMs."""
        ...

    @property
    def bases(self) -> BaseStore:
        """The stored bases."""
        ...

    async def boot(self, request: BootRequest) -> Machine:
        """Start a cold boot; returns when the VMM runs, before the guest is ready."""
        ...

    async def save_boot(self, machine: Machine, request: BootRequest) -> None:
        """Suspend a booted VM and write the missing files of its base. The VM can then be killed."""
        ...

    async def restore(self, request: RestoreRequest) -> Machine:
        """Start a VM from saved memory, or boot it; returns when the memory is filled, before the guest has answered.

        Raises:
            DamagedBase, DamagedSnapshot: what it starts from is not what was saved. AgentFailure: it did not start.
        """
        ...

    async def adopt(self, handle: MachineHandle) -> Machine | None:
        """Return the VM that a former agent started, or None if it no longer runs."""
        ...

    async def flatten(self, request: FlattenRequest) -> None:
        """Write the whole content of a disk into a sparse file from which `boot` can start, or whatever makes this driver's bases.

        There is no deadline. If it fails or is cancelled, none of its processes is left; files may be.

        Raises:
            DamagedSnapshot: the disk cannot be read. StorageFull: no room.
        """
        ...

    async def kill(self, process: ProcessRef, directory: Path) -> None:
        """End the VMM of a machine with this folder that nobody has adopted, and wait until it is gone. Idempotent.

        Raises:
            TimeoutError: it did not end.
        """
        ...

    async def clean(self, directory: Path) -> None:
        """Remove what a machine with this folder left on the host if it ended without `Machine.kill`. Its processes have ended. Idempotent."""
        ...

    async def sweep(self) -> None:
        """Remove what is left of machines that ended without `Machine.kill`, as when an agent was killed. Those that run are not touched."""
        ...

    async def close(self) -> None:
        """Release the driver's resources; VMs keep running."""
        ...
