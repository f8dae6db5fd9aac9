"""The devices of one machine's disk: each of its layers a `dm-snapshot`, one on top of the other, and a `linear` one that the VMM opens.

The VMM's device keeps its number when layers are switched: only its table is exchanged. The devices belong to one machine alone; what
machines share are the read-only loop devices of the files.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import os
import stat
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Final

from wrenn.base.errors import AgentFailure
from wrenn.base.faults import fault_point
from wrenn.base.undo import Undo
from wrenn.linux import allocation, device_mapper, loop
from wrenn.linux.device_mapper import SECTOR_B, DeviceMapperError, Target
from wrenn.linux.files import remove_file
from wrenn.linux.threads import DISK_SPACE, run_to_end
from wrenn.vm.firecracker import cow_file, cow_space
from wrenn.vm.firecracker.block_disks import Standstill

_log = logging.getLogger(__name__)

MERGED: Final = "~"
"""Ends the name of a device whose file is still a draft: written layer and those below it in one."""
BASE_PART: Final = "base"
"""Part of the name of the device with what the boot of a base wrote; others have the id of their layer."""
_VISIBLE: Final = "disk"
"""The device that the VMM opens."""
_IMAGE: Final = "image"
_CHUNK_SECTORS: Final = cow_file.CHUNK_B // SECTOR_B
_INNER_SECTORS: Final = 1 << 37
"""64 TiB: more than any disk. Inner devices are all so large, so that only the visible one needs a new table when a disk grows."""
_DETACH_TIMEOUT_S: Final = 10.0
"""A VMM that was killed closes its files before it is reaped; another program may look at the device for a moment."""
_RETRY_S: Final = 0.02
_PIECES: Final = 16
"""Of a MiB each, after which a merge can be cancelled."""


@dataclass(frozen=True, slots=True)
class StackFiles:
    """The files of a disk.

    Attributes:
        image: raw image, under all layers. It may be smaller than the disk, which then ends with zeros.
        layers: name of the device and copy-on-write file, newest first. The first one is written.
    """

    image: Path
    layers: tuple[tuple[str, Path], ...]


class DeviceStack:
    """The devices whose names begin with `prefix`. Implements `wrenn.vm.firecracker.block_disks.AttachedDisk`."""

    def __init__(self, prefix: str, file_of: Callable[[str], Path]) -> None:
        self._prefix = prefix
        self._file_of = file_of
        self._exchange = asyncio.Lock()
        """Held by who exchanges the table of the visible device, or suspends it: whoever resumes it continues what the other one stopped."""

    def _name(self, part: str) -> str:
        return f"{self._prefix}{part}"

    async def build(self, files: StackFiles, *, size_b: int) -> None:
        """Make all devices. If this fails, `detach` removes those that were made.

        Raises:
            DamagedSnapshot: a file cannot be a layer. OSError, DeviceMapperError: the kernel refused something.
        """
        below = await run_to_end(partial(_add_image, self._name(_IMAGE), files.image))
        await fault_point("vm.disk.after_image")
        for part, file in reversed(files.layers[1:]):
            below = await run_to_end(partial(_add_frozen, self._name(part), below, file))
            await fault_point("vm.disk.after_frozen")
        part, file = files.layers[0]
        below = await run_to_end(partial(_add_written, self._name(part), below, file))
        await fault_point("vm.disk.after_written")
        await run_to_end(
            partial(
                device_mapper.create, self._name(_VISIBLE), _visible_table(below, size_b), read_only=False
            )
        )

    @property
    def number(self) -> int:
        """Device number."""
        return self._status().number

    @property
    def path(self) -> Path:
        """Its node on the host."""
        return self._status().path

    @property
    def size_b(self) -> int:
        """Size of the device."""
        return sum(target.sectors for target in device_mapper.table(self._name(_VISIBLE))) * SECTOR_B

    def _status(self) -> device_mapper.DeviceStatus:
        status = device_mapper.status(self._name(_VISIBLE))
        if status is None:
            raise AgentFailure("The sandbox's disk is not attached.")
        return status

    def make_node(self, path: Path, *, uid: int, gid: int) -> None:
        """Make a device node. It has its permissions before it has its name."""
        draft = path.with_name(f".{path.name}.new")
        draft.unlink(missing_ok=True)
        os.mknod(draft, stat.S_IFBLK | 0o600, self.number)
        os.chown(draft, uid, gid)
        draft.rename(path)

    async def written_layer(self) -> str:
        """Return the id of the layer below the visible device."""
        return await run_to_end(lambda: self._parts()[0])

    def _parts(self) -> list[str]:
        """Return the parts of the names of all devices with layers, from the visible one down, that of the base included. Blocking."""
        parts_of = {
            number: name.removeprefix(self._prefix)
            for name, number in device_mapper.list_names(self._prefix).items()
        }
        parts: list[str] = []
        part = _VISIBLE
        while True:
            # Both kinds of tables begin with the device below.
            below = device_mapper.table(self._name(part))[0].parameters.split()[0]
            part = parts_of.get(device_mapper.number_of(below), "")
            if not part:
                raise AgentFailure("The sandbox's disk lies on a device that is not its own.")
            if part == _IMAGE:
                return parts
            parts.append(part)

    async def switch_layer(self, layer_id: str) -> None:
        """Put the new layer on top of the written one, and the visible device on top of that."""
        former = await self.written_layer()
        visible = self._name(_VISIBLE)
        async with self._exchange, Undo() as undo:
            size_b = self.size_b
            # Runs last: a table that was loaded and is not active has the device open too.
            undo.push("remove device", partial(run_to_end, partial(self._remove, layer_id)))
            undo.push("continue with the former layer", partial(run_to_end, partial(_continue, visible)))
            await run_to_end(self._suspend)
            await fault_point("vm.disk.switch.suspended")
            status = await run_to_end(partial(device_mapper.status, self._name(former)))
            assert status is not None, "the device that was just found"
            file = self._file_of(layer_id)
            below = await run_to_end(partial(_add_written, self._name(layer_id), status.number, file))
            await fault_point("vm.disk.switch.added")
            table = _visible_table(below, size_b)
            await run_to_end(partial(device_mapper.load, visible, table, read_only=False))
            await fault_point("vm.disk.switch.loaded")
            await run_to_end(partial(_activate, visible, undo))
        await fault_point("vm.disk.switch.resumed")
        await run_to_end(partial(self._freeze, former))

    def _freeze(self, part: str) -> None:
        """Give back the space that a layer has ahead. If that fails, it takes more disk than it needs, and nothing else."""
        try:
            cow_space.freeze(self._name(part))
        except (DeviceMapperError, OSError) as error:
            _log.info("a frozen layer keeps unused disk space", extra={"layer": part, "reason": str(error)})

    def _suspend(self) -> None:
        """Suspend the visible device, after space was taken for all that has to be written then. Blocking.

        Raises:
            StorageFull: there is not so much. The device is not suspended: it would wait until there is.
        """
        self._take_space()
        device_mapper.suspend(self._name(_VISIBLE))

    def _take_space(self) -> None:
        """Take space for all that the page cache of the visible device holds, so that it can be written without waiting. Blocking.

        Raises:
            StorageFull: there is not so much.
        """
        layer = self._name(self._parts()[0])
        if cow_space.has_store(layer):
            unwritten_b = allocation.unwritten_b(self.path)
            cow_space.take(layer, cow_space.used_b(layer) + cow_file.space_b(unwritten_b) + cow_space.FIRST_B)

    async def grow(self, size_b: int, standstill: Standstill) -> None:
        """Make room in the layer's file, then enlarge the visible device. Never smaller."""
        async with self._exchange:
            if size_b <= self.size_b:
                return
            await run_to_end(self._take_space)  # a VMM whose writes wait could not be stopped
            async with standstill():
                written = await self.written_layer()
                await run_to_end(partial(self._lengthen_file, written, size_b))
                await fault_point("vm.disk.grow.room")
                await run_to_end(partial(self._enlarge, size_b))

    def _lengthen_file(self, layer_id: str, size_b: int) -> None:
        layer = self._name(layer_id)
        has_store = cow_space.has_store(layer)
        if has_store:
            self._take_space()
        cow_file.enlarge(self._file_of(layer_id), size_b=size_b)
        if has_store:
            cow_space.lengthen(layer, cow_space.read(layer).file)
        else:  # an earlier agent attached it
            (target,) = device_mapper.table(layer)
            with loop.existing(device_mapper.number_of(target.parameters.split()[1])) as device:
                device.update_size()

    def _enlarge(self, size_b: int) -> None:
        visible = self._name(_VISIBLE)
        (target,) = device_mapper.table(visible)
        below = device_mapper.number_of(target.parameters.split()[0])
        self._take_space()  # the file is longer now: some is ahead of the first write there
        device_mapper.load(visible, _visible_table(below, size_b), read_only=False)
        device_mapper.suspend(visible)
        device_mapper.resume(visible)

    async def flush(self) -> None:
        """Write the page cache of the visible device to the layer's file: the kernel does that when it suspends a device.

        Raises:
            StorageFull: there is no space for it.
        """
        async with self._exchange:
            await run_to_end(self._flush)

    def _flush(self) -> None:
        try:
            self._suspend()
        finally:
            device_mapper.resume(self._name(_VISIBLE))

    async def is_whole(self) -> bool:
        """Return whether the kernel has given up none of the layers, which it does when a write to a file fails."""
        return await run_to_end(self._is_whole)

    def _is_whole(self) -> bool:
        for name in device_mapper.list_names(self._prefix):
            # Those for space come and go, and none of them is a snapshot.
            for target in () if cow_space.MARK in name else device_mapper.target_status(name):
                # Else it is one word: `Invalid`, `Overflow`, `Unknown`.
                if target.kind == "snapshot" and "/" not in target.parameters:
                    return False
        return True

    def is_open(self) -> bool:
        """Return whether a program has the visible device open. Blocking."""
        status = device_mapper.status(self._name(_VISIBLE))
        return status is not None and status.open_count > 0

    async def merge_layers(self, standstill: Standstill) -> None:
        """Copy the frozen layers above the base's into the written one. Requests wait only while the written one itself is copied.

        All are laid over one another in a draft, the written one at last, which then takes the place of the written layer's file. If
        this fails or is cancelled, everything is as before.
        """
        top, *frozen, base = await run_to_end(self._parts)
        if not frozen:
            return
        draft = draft_of(self._file_of(top))
        async with Undo() as undo:
            undo.push("remove draft", partial(remove_file, draft))
            await remove_file(draft)
            await run_to_end(partial(cow_file.create, draft, size_b=self.size_b))
            for part in reversed(frozen):
                await _absorb(draft, self._file_of(part))
            async with self._exchange:
                await self._exchange_for(draft, top, base, undo, standstill)
                await fault_point("vm.disk.merge.resumed")
                await run_to_end(self.settle)

    async def _exchange_for(
        self, draft: Path, top: str, base: str, merging: Undo, standstill: Standstill
    ) -> None:
        """Add the written layer to the draft, and put that between the base and the visible device. Then nothing of `merging` is undone."""
        visible, merged = self._name(_VISIBLE), f"{top}{MERGED}"
        async with Undo() as undo:
            # Runs last, as with a switch.
            undo.push("remove device", partial(run_to_end, partial(self._remove, merged)))
            undo.push("continue with the former layers", partial(run_to_end, partial(_continue, visible)))
            await run_to_end(self._take_space)  # a VMM whose writes wait could not be stopped
            async with standstill():
                await run_to_end(self._suspend)
            await fault_point("vm.disk.merge.suspended")
            size_b = self.size_b
            cow_file.enlarge(draft, size_b=size_b)
            await _absorb(draft, self._file_of(top))
            status = await run_to_end(partial(device_mapper.status, self._name(base)))
            assert status is not None, "the device that was just found"
            below = await run_to_end(partial(_add_written, self._name(merged), status.number, draft))
            await fault_point("vm.disk.merge.added")
            table = _visible_table(below, size_b)
            await run_to_end(partial(device_mapper.load, visible, table, read_only=False))
            await run_to_end(partial(_activate, visible, undo, merging))

    def settle(self) -> bool:
        """Undo or finish what a killed agent had begun: devices that are suspended continue, unused ones are removed. Blocking.

        Returns False if the stack is not complete.
        """
        visible = self._name(_VISIBLE)
        if device_mapper.status(visible) is None or not device_mapper.table(visible):
            return False
        cow_space.go_on(self._prefix)
        for name in sorted(device_mapper.list_names(self._prefix), key=visible.__eq__):
            if cow_space.MARK not in name:
                _continue(name)
        # The draft takes the place of the layer's file before the device of that file is gone.
        top = self._parts()[0]
        layer = self._file_of(top.removesuffix(MERGED))
        if top.endswith(MERGED) and draft_of(layer).exists():
            draft_of(layer).rename(layer)
        with cow_space.lock:
            _remove_unused(self._prefix, but=visible)
        if top.endswith(MERGED):
            cow_space.rename(self._name(top), self._name(top.removesuffix(MERGED)))
            device_mapper.rename(self._name(top), self._name(top.removesuffix(MERGED)))
        elif top != BASE_PART:
            draft_of(layer).unlink(missing_ok=True)
        for part in self._parts()[1:]:
            if cow_space.has_store(self._name(part)):
                self._freeze(part)
        return True

    def _remove(self, part: str) -> None:
        device_mapper.remove(self._name(part), timeout_s=_DETACH_TIMEOUT_S)
        cow_space.remove(self._name(part))

    async def detach(self) -> None:
        """Remove all devices."""
        await detach_devices(self._prefix)


def draft_of(file: Path) -> Path:
    """Return the path of a layer's draft while layers are merged into it. It is not listed as a layer."""
    return file.with_name(f".{file.name}.merged")


async def _absorb(draft: Path, above: Path) -> None:
    with closing(cow_file.absorb(draft, above)) as pieces:
        while await run_to_end(lambda: list(islice(pieces, _PIECES))):
            pass


async def detach_devices(prefix: str) -> None:
    """Remove all devices whose names begin so, each when nothing uses it any more.

    Raises:
        AgentFailure: a device is still in use at the end of the deadline.
    """
    end = time.monotonic() + _DETACH_TIMEOUT_S
    await run_to_end(partial(cow_space.give_up, prefix), pool=DISK_SPACE)
    await _until_none(partial(_remove_visible, prefix), end)
    # Nobody writes any more, so what the kernel says of the files is final.
    files = await run_to_end(partial(cow_space.ends_of_files, prefix))
    await _until_none(partial(_remove_unused, prefix), end)
    cow_space.forget(prefix)
    for file, used_b in files.items():
        try:
            await run_to_end(partial(cow_space.give_back, file, used_b))
        except OSError as error:
            _log.info("a layer keeps unused disk space", extra={"file": file.name, "reason": str(error)})


async def _until_none(remove: Callable[[], list[str]], end: float) -> None:
    """Remove devices again and again until none are left, or it is `end`."""
    while names := await run_to_end(remove):
        if time.monotonic() > end:
            raise AgentFailure(
                "The sandbox's disk is still in use and could not be detached.",
                context={"devices": names},
            )
        await asyncio.sleep(_RETRY_S)


def _add_image(name: str, image: Path) -> int:
    with loop.shared(image) as device:
        sectors = image.stat().st_size // SECTOR_B
        return device_mapper.create(
            name,
            [
                Target(sectors, "linear", f"{device_mapper.text_of(device.number)} 0"),
                Target(_INNER_SECTORS - sectors, "zero", ""),
            ],
            read_only=True,
        )


def _add_frozen(name: str, below: int, file: Path) -> int:
    # The kernel's tables for a layer are as large as its device, so that ends with what is used.
    used_b = cow_file.inspect(file).used_chunks * cow_file.CHUNK_B
    with loop.shared(file, limit_b=used_b) as device:
        return device_mapper.create(name, _snapshot_table(below, device.number), read_only=True)


def _add_written(name: str, below: int, file: Path) -> int:
    open_b = cow_space.allocate(file, cow_file.inspect(file).used_chunks * cow_file.CHUNK_B)
    with loop.writable(file) as device:
        store = cow_space.add_store(name, device.number, device.size_b)
    number = device_mapper.create(name, _snapshot_table(below, store), read_only=False)
    cow_space.close_store(name, open_b)
    return number


def _snapshot_table(below: int, file: int) -> list[Target]:
    numbers = f"{device_mapper.text_of(below)} {device_mapper.text_of(file)}"
    return [Target(_INNER_SECTORS, "snapshot", f"{numbers} P {_CHUNK_SECTORS}")]


def _visible_table(below: int, size_b: int) -> list[Target]:
    return [Target(size_b // SECTOR_B, "linear", f"{device_mapper.text_of(below)} 0")]


def _activate(name: str, *undos: Undo) -> None:
    """Make the loaded table active. From then on nothing is undone, also if the caller is cancelled before it knows."""
    device_mapper.resume(name)
    for undo in undos:
        undo.keep()


def _continue(name: str) -> None:
    device_mapper.clear(name)
    device_mapper.resume(name)


def _remove_unused(prefix: str, *, but: str = "") -> list[str]:
    """Remove what nothing uses, from the top down; returns the names of what is left. `but`: a device that is kept."""
    while True:
        names = device_mapper.list_names(prefix)
        removed = False
        for name in names:
            status = device_mapper.status(name)
            if name != but and status is not None and status.open_count == 0:
                removed |= _removed_at_once(name)
        if not removed:
            return sorted(names)


def _remove_visible(prefix: str) -> list[str]:
    name = f"{prefix}{_VISIBLE}"
    return [] if _removed_at_once(name) else [name]


def _removed_at_once(name: str) -> bool:
    try:
        device_mapper.remove(name, timeout_s=0)
    except DeviceMapperError as error:
        if error.context["errno"] != errno.EBUSY:
            raise
        return False
    return True
