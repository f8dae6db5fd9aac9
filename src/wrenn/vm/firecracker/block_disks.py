"""Interface to root disks that are block devices of the host: what Firecracker needs beyond `wrenn.vm.disks.DiskChain`."""

from __future__ import annotations

from collections.abc import Callable, Collection
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Protocol

from wrenn.vm.disks import DiskChain, DiskRef

Standstill = Callable[[], AbstractAsyncContextManager[None]]
"""Makes a context in which the machine writes nothing to its disk."""


class BaseFiles(Protocol):
    """Where the disks of the stored bases are."""

    def image(self, key: str) -> Path:
        """Return the path of the template's raw image."""
        ...

    def written(self, key: str) -> Path:
        """Return the path of the copy-on-write file with what the boot of the base wrote over the image."""
        ...


class AttachedDisk(Protocol):
    """The block device of one machine's disk. It stays attached when the agent ends."""

    @property
    def number(self) -> int:
        """Device number."""
        ...

    @property
    def size_b(self) -> int:
        """Size of the device."""
        ...

    def make_node(self, path: Path, *, uid: int, gid: int) -> None:
        """Make a device node at `path` that only this user and group may open."""
        ...

    async def written_layer(self) -> str:
        """Return the id of the layer that is written, as the kernel reports it."""
        ...

    async def switch_layer(self, layer_id: str) -> None:
        """Write to the new layer `layer_id` from now on. The machine is suspended. If this fails, the former layer is still written."""
        ...

    async def merge_layers(self, standstill: Standstill) -> None:
        """Copy the frozen layers above the base's into the written one. If this fails or is cancelled, nothing has changed.

        The machine runs, and stands still while the kernel writes what it has in memory for this device.

        Raises:
            StorageFull: there is no space for that.
        """
        ...

    async def grow(self, size_b: int, standstill: Standstill) -> None:
        """Enlarge the device, while the machine stands still. The VMM has to be told afterwards.

        Raises:
            StorageFull: there is no space for what the kernel has in memory for this device.
        """
        ...

    async def flush(self) -> None:
        """Write to the layer's file whatever the kernel still has in memory for this device.

        Raises:
            StorageFull: there is no space for it; it stays in memory.
        """
        ...

    async def is_whole(self) -> bool:
        """Return whether the disk can be used. False: the kernel invalidated a layer since the host's disk was full."""
        ...

    async def detach(self) -> None:
        """Remove the device. Its VMM has ended. Idempotent."""
        ...


class BlockDisks(DiskChain, Protocol):
    """The layers of a host's disks, and the block devices made of them."""

    async def attach(self, name: str, disk: DiskRef) -> AttachedDisk:
        """Make the block device of the machine `name`. A former device of that name, whose VMM has ended, is removed first."""
        ...

    async def attach_boot(self, name: str, *, image: Path, written: Path, size_b: int = 0) -> AttachedDisk:
        """Make the block device of a cold boot: the raw `image`, and over it the new copy-on-write file `written`."""
        ...

    async def adopt(self, name: str) -> AttachedDisk | None:
        """Return the device that a former agent attached, or None if there is none."""
        ...

    async def give_up(self, name: str) -> None:
        """Let the writes of a machine that wait for disk space fail, after its VMM was killed: it ends only then. Idempotent."""
        ...

    async def detach(self, name: str) -> None:
        """Remove the device of a machine that has ended. Idempotent; a busy one is tried again within a deadline."""
        ...

    async def sweep(self, keep: Collection[str]) -> None:
        """Remove the devices of this installation whose machine is not in `keep` and that nobody has open."""
        ...
