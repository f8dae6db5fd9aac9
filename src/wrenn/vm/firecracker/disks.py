"""The layers of root disks as copy-on-write files, and the block devices that are made of them with device-mapper.

docs/design/vm-disks-dm.md explains the devices of one machine and what holds after a failure.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Collection
from functools import partial
from pathlib import Path
from typing import Final

from wrenn.base.errors import AgentFailure, WrennError
from wrenn.base.undo import Undo
from wrenn.linux import device_mapper
from wrenn.linux.files import copy_file, remove_file
from wrenn.linux.threads import DISK_SPACE, run_to_end
from wrenn.storage.errors import DamagedSnapshot
from wrenn.storage.layers import LayerSeal
from wrenn.vm.disks import DiskRef
from wrenn.vm.firecracker import cow_file, cow_space
from wrenn.vm.firecracker.block_disks import BaseFiles
from wrenn.vm.firecracker.device_stack import (
    BASE_PART,
    MERGED,
    DeviceStack,
    StackFiles,
    detach_devices,
    draft_of,
)
from wrenn.vm.firecracker.space_allocator import SpaceAllocator
from wrenn.vm.layer_files import LayerFiles, missing_layer

_log = logging.getLogger(__name__)

_SUFFIX: Final = ".cow"
_NAME: Final = re.compile(r"[A-Za-z0-9_-]{1,64}")


class DmDisks(LayerFiles):
    """Implements `wrenn.vm.firecracker.block_disks.BlockDisks`.

    `prefix` begins the names of all its devices, and no other installation on the machine has the same one.
    """

    def __init__(self, root: Path, bases: BaseFiles, *, prefix: str, reserve_b: int = 0) -> None:
        """`reserve_b` of the file system are not taken for what machines write, except when a machine is attached or its disk flushed."""
        super().__init__(root, suffix=_SUFFIX)
        self._bases = bases
        self._prefix = prefix
        self.space = SpaceAllocator(prefix=f"{prefix}.", folder=root, reserve_b=reserve_b)
        """Must run while there are machines: without it their writes wait after the first megabytes."""

    def files_of(self, disk: DiskRef) -> StackFiles:
        """Return the files of a disk."""
        below = [(layer, self.path(layer)) for layer in disk.layers]
        return StackFiles(self._bases.image(disk.base), (*below, (BASE_PART, self._bases.written(disk.base))))

    async def create(self, layer_id: str, below: DiskRef, *, size_b: int, copy_of: str = "") -> None:
        """Make a new layer: an empty file, or a copy of a frozen one."""
        del below  # a file does not name what it lies on
        path = self.path(layer_id)
        if not copy_of:
            await run_to_end(partial(cow_file.create, path, size_b=size_b))
        elif self.size_b(copy_of) < size_b:
            raise DamagedSnapshot(f"A part of the disk, {copy_of}, is smaller than the disk.")
        else:
            await run_to_end(partial(copy_file, self.path(copy_of), path))

    def seal(self, layer_id: str) -> LayerSeal:
        """Return the seal of a frozen layer and make its file read-only.

        Raises:
            DamagedSnapshot: the kernel has given the layer up, as it does when the host's disk is full.
        """
        path = self.path(layer_id)
        cow_file.inspect(path)
        path.chmod(0o400)
        return LayerSeal(layer_id, path.stat().st_size, cow_file.digest(path))

    def check(self, expected: LayerSeal) -> None:
        """Compare a layer with its seal."""
        path = self.path(expected.layer_id)
        try:
            same = path.stat().st_size == expected.size_b
            # A large layer has no digest. Tables are checked when the layer is attached.
            if same and expected.digest:
                same = cow_file.digest(path) == expected.digest
        except FileNotFoundError as error:
            raise missing_layer(expected.layer_id) from error
        if not same:
            raise DamagedSnapshot(f"A part of the disk, {expected.layer_id}, is not what was saved.")

    def waits_for_space(self, layer_id: str) -> bool:
        """Return whether writes to the layer wait in the kernel."""
        return any(name.endswith(f".{layer_id}") for name in self.space.waiting)

    def size_b(self, layer_id: str) -> int:
        """Return the size of the disk that the layer's file has room for."""
        return cow_file.disk_size_b(self.path(layer_id))

    def image_size_b(self, base: str) -> int:
        """Size of the raw image."""
        return self._bases.image(base).stat().st_size

    async def restore(self, layer_id: str, file: Path) -> None:
        """Give the file the layer's name, unless it could not be one."""
        await run_to_end(partial(cow_file.inspect, file))
        file.chmod(0o400)
        file.rename(self.path(layer_id))

    async def attach(self, name: str, disk: DiskRef) -> DeviceStack:
        """Make the devices of a disk whose layers all exist."""
        try:
            size_b = self.size_b(disk.layers[0])
        except FileNotFoundError as error:
            raise missing_layer(disk.layers[0]) from error
        return await self._attach(name, self.files_of(disk), size_b)

    async def attach_boot(self, name: str, *, image: Path, written: Path, size_b: int = 0) -> DeviceStack:
        """Make the devices of a cold boot."""
        size_b = size_b or image.stat().st_size
        async with Undo() as undo:
            await run_to_end(
                partial(cow_file.create, written, size_b=size_b),
                drop=lambda _none: written.unlink(missing_ok=True),
            )
            undo.push("remove file", partial(remove_file, written))
            stack = await self._attach(name, StackFiles(image, ((BASE_PART, written),)), size_b)
            undo.keep()
        return stack

    async def _attach(self, name: str, files: StackFiles, size_b: int) -> DeviceStack:
        stack = self._stack(name)
        async with Undo() as undo:
            await stack.detach()
            undo.push("remove devices", stack.detach)
            try:
                await stack.build(files, size_b=size_b)
            except FileNotFoundError as error:
                raise DamagedSnapshot("A part of the disk is missing.") from error
            except OSError as error:
                raise AgentFailure("The disk could not be made a block device.") from error
            undo.keep()
        return stack

    async def adopt(self, name: str) -> DeviceStack | None:
        """Return the devices that a former agent made, in a state in which requests are served; None if they are not complete."""
        stack = self._stack(name)
        return stack if await run_to_end(stack.settle) else None

    async def give_up(self, name: str) -> None:
        """Let writes that wait for space fail: a killed VMM could not end otherwise."""
        # Not in the pool that suspensions may fill, which wait for space: removals give some back.
        await run_to_end(partial(cow_space.give_up, _prefix_of(self._prefix, name)), pool=DISK_SPACE)

    async def detach(self, name: str) -> None:
        """Remove the devices of a machine that has ended."""
        await detach_disk(self._prefix, name)

    async def sweep(self, keep: Collection[str]) -> None:
        """Remove the devices that nobody uses."""
        for name in await run_to_end(self.attached):
            stack = self._stack(name)
            if name in keep or await run_to_end(stack.is_open):
                continue
            try:
                await stack.detach()
            except WrennError as error:
                # Something of the host uses a device. It must not stop the agent; `wrenn doctor` reports it.
                _log.warning("disk devices are left over", extra={"machine": name, "reason": error.message})
        await run_to_end(self._remove_drafts)

    def _remove_drafts(self) -> None:
        """Remove drafts of merges that have no device: their agent was killed, and their machine has ended."""
        devices = device_mapper.list_names(f"{self._prefix}.")
        for layer_id in self.list_ids():
            if not any(name.endswith(f".{layer_id}{MERGED}") for name in devices):
                draft_of(self.path(layer_id)).unlink(missing_ok=True)

    def attached(self) -> list[str]:
        """Return the names of all machines that have devices, complete or not. Blocking."""
        return list_attached(self._prefix)

    def _stack(self, name: str) -> DeviceStack:
        return DeviceStack(_prefix_of(self._prefix, name), self.path)


def list_attached(prefix: str) -> list[str]:
    """Return the names of all machines of an installation that have devices, complete or not; none without device-mapper. Blocking."""
    if not device_mapper.is_available():
        return []
    begin = f"{prefix}."
    return sorted({name.removeprefix(begin).rpartition(".")[0] for name in device_mapper.list_names(begin)})


async def detach_disk(prefix: str, name: str) -> None:
    """Remove the devices of a machine that has ended. Idempotent.

    Raises:
        AgentFailure: a device is still in use.
    """
    await detach_devices(_prefix_of(prefix, name))


def _prefix_of(prefix: str, name: str) -> str:
    assert _NAME.fullmatch(name), "names are made by the agent"
    return f"{prefix}.{name}."
