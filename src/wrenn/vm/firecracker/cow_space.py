"""The devices between a written layer and its file, which have writes wait as long as there is no disk space for them.

The kernel makes a `dm-snapshot` unusable for good when one write to its file fails, as on a full file system. Here none can fail: disk blocks
are taken for the first part of the file, and writes to the rest wait in the kernel until blocks are taken for more of it.

    LAYER+store        linear     the part with disk blocks: the file's loop device; the rest: the device below
    LAYER+unflushed0   unstriped  the device below, without flushes: each commit of the snapshot sends one to every device, and it would wait
    LAYER+waiting0     linear     the file's loop device. It is suspended, and so whatever comes here waits

To take more, a second pair of these is made; the first waiting device gets the table of the store and is resumed. What waited there is written,
or waits at the second one. Then the store leads there too, and the first pair is removed. So all of this holds with no agent running, and after one
that was killed between any two steps. The functions block, in a thread, for microseconds: they wait for no request of a guest.
"""

from __future__ import annotations

import errno
import logging
import threading
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from wrenn.base.units import MIB
from wrenn.linux import allocation, device_mapper, loop
from wrenn.linux.device_mapper import SECTOR_B, DeviceMapperError, Target
from wrenn.linux.files import translated
from wrenn.linux.threads import start_in_own_thread
from wrenn.vm.firecracker import cow_file

MARK: Final = "+"
"""Only the names of the devices of this module contain it."""
STORE: Final = "+store"
"""Ends the name of a store, after that of its layer's device."""
WAITING: Final = "+waiting"
FIRST_B: Final = 16 * MIB
"""Disk space that a written layer has ahead at first. The kernel has up to 8 MiB of writes under way."""
_UNFLUSHED: Final = "+unflushed"
_WITHOUT_FLUSHES: Final = "unstriped"
"""Kind of table that maps as `linear` does, if there is one stripe and it begins with the device. Elsewhere versions of the kernel differ."""
_CHUNK_SECTORS: Final = cow_file.CHUNK_B // SECTOR_B
_REMOVE_TIMEOUT_S: Final = 10.0

lock: Final = threading.RLock()
"""Held while waiting devices are made, exchanged, renamed or removed."""
_activations: Final[dict[str, threading.Lock]] = {}
"""By the name of a store, held while its loaded table is made active: the kernel refuses to suspend or resume a device twice at once."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Space:
    """What the tables of a layer's devices say.

    Attributes:
        file: number of the loop device.
        open_b: writes up to here are done; disk blocks were taken for them.
        end_b: length of the file.
        last: the device at which the others wait; empty if there are none: blocks were taken for all of the file.
    """

    file: int
    open_b: int
    end_b: int
    last: str


def allocate(file: Path, used_b: int) -> int:
    """Take disk blocks for the first writes to a file that nobody writes yet; returns up to where.

    Raises:
        StorageFull: no room.
    """
    open_b = min(used_b + FIRST_B, file.stat().st_size)
    try:
        # Also what is used: there may be holes in it, and the first table is one in a new file.
        allocation.allocate(file, 0, open_b)
    except OSError as error:
        raise translated(error, doing="take space for what the sandbox writes") from error
    return open_b


def add_store(layer: str, file: int, size_b: int) -> int:
    """Make the store of a layer's device, which lets everything through: the kernel reads ahead of what is used. Returns its number."""
    return device_mapper.create(f"{layer}{STORE}", [_part(file, 0, size_b)], read_only=False)


def close_store(layer: str, open_b: int) -> None:
    """Have writes from here on wait, before there are any."""
    with lock:
        space = read(layer)
        if open_b < space.end_b:
            last = _add_waiting(layer, space.file, space.end_b)
            _exchange_table(f"{layer}{STORE}", _table(space.file, open_b, space.end_b, last))


def read(layer: str) -> Space:
    """Return the space of a layer's device.

    Raises:
        DeviceMapperError: it has no store, or its requests were made to fail.
    """
    with lock:
        return _read(layer)


def _read(layer: str) -> Space:
    names = {number: name for name, number in device_mapper.list_names(f"{layer}{MARK}").items()}
    name, open_b = f"{layer}{STORE}", 0
    while True:
        targets = _active(name, device_mapper.table(name))
        number, size_b = _below(layer, targets[0]), sum(target.sectors for target in targets) * SECTOR_B
        if len(targets) == 1:
            status = device_mapper.status(name)
            if status is None or not status.suspended or name.endswith(STORE):
                return Space(number, size_b, size_b, "")
            return Space(number, open_b, size_b, name)
        open_b = targets[0].sectors * SECTOR_B
        upper = names.get(_below(layer, targets[1]), f"{layer}{_UNFLUSHED}")
        (unflushed,) = _active(upper, device_mapper.table(upper))
        name = names.get(_below(layer, unflushed), f"{layer}{WAITING}")


def _active(name: str, targets: list[Target]) -> list[Target]:
    if not targets:
        raise DeviceMapperError(
            "A block device is not complete.",
            context={"device": name, "call": "read the table of", "errno": errno.ENXIO},
        )
    return targets


def _below(layer: str, target: Target) -> int:
    if target.kind == "error":
        raise DeviceMapperError(
            "Requests to a block device were given up.",
            context={"device": layer, "call": "read", "errno": errno.EIO},
        )
    return device_mapper.number_of(target.parameters.split()[3 if target.kind == _WITHOUT_FLUSHES else 0])


def used_b(layer: str) -> int:
    """Return how much of its file a layer's device has used.

    Raises:
        DeviceMapperError: there is no such device, or the kernel gave it up.
    """
    (target,) = _active(layer, device_mapper.target_status(layer))
    used, slash, _ = target.parameters.partition("/")
    if not slash:
        raise DeviceMapperError(
            "The kernel gave a block device up.",
            context={"device": layer, "call": "read the state of", "errno": errno.EIO},
        )
    return int(used) * SECTOR_B


def take(layer: str, up_to_b: int) -> None:
    """Take disk blocks of the layer's file up to here, and let the writes to them through.

    Raises:
        StorageFull: no room; nothing has changed for the layer.
    """
    space = read(layer)
    up_to_b = min(up_to_b, space.end_b)
    if not space.last or up_to_b <= space.open_b:
        return
    try:
        allocation.allocate(loop.file_of(space.file), space.open_b, up_to_b)
    except OSError as error:
        raise translated(error, doing="take space for what a sandbox writes") from error
    with lock:
        space = read(layer)
        if not space.last or up_to_b <= space.open_b:
            return
        _remove_unused(layer)
        beyond = _add_waiting(layer, space.file, space.end_b) if up_to_b < space.end_b else 0
        table = _table(space.file, up_to_b, space.end_b, beyond)
        device_mapper.load(space.last, table, read_only=False)
        device_mapper.resume(space.last)
        device_mapper.load(f"{layer}{STORE}", table, read_only=False)
    # The store waits for its running requests, which is long if they have come to wait at the new device meanwhile. Then the next call
    # of this function lets them through.
    start_in_own_thread(lambda: _shorten(layer))


def _shorten(layer: str) -> None:
    """Have the store lead to the last waiting device directly."""
    try:
        _activate(f"{layer}{STORE}")
        with lock:
            _remove_unused(layer)
    except DeviceMapperError as error:
        if error.context["errno"] != errno.ENXIO:  # else the machine has ended
            _log.warning(
                "requests to a disk take a longer way", extra={"reason": error.message, **error.context}
            )


def lengthen(layer: str, file: int) -> None:
    """Take over the length of the file, which was enlarged. No request may be waiting."""
    store = f"{layer}{STORE}"
    with loop.existing(file) as device, lock:
        space = read(layer)
        device.update_size()
        if device.size_b > space.end_b:
            last = _add_waiting(layer, file, device.size_b)
            table = _table(file, space.open_b, device.size_b, last)
            if space.last:
                device_mapper.load(space.last, table, read_only=False)
                device_mapper.resume(space.last)
            device_mapper.load(store, table, read_only=False)
    # Without the lock: should requests have come to wait, `take` lets them through.
    _activate(store)
    with lock:
        _remove_unused(layer)


def freeze(layer: str) -> None:
    """Give back the disk blocks that a layer has ahead, which is not written any more."""
    with lock:
        space = read(layer)
        if space.last:
            _exchange_table(f"{layer}{STORE}", [_part(space.file, 0, space.end_b)])
            _remove_unused(layer)
    allocation.give_back(loop.file_of(space.file), used_b(layer))


def has_store(layer: str) -> bool:
    """Return whether a layer's device has a store: written layers do, but for those that an agent without stores attached."""
    return device_mapper.status(f"{layer}{STORE}") is not None


def stores(prefix: str) -> list[str]:
    """Return the layers' devices that have stores, of those whose names begin so."""
    return [name.removesuffix(STORE) for name in device_mapper.list_names(prefix) if name.endswith(STORE)]


def ends_of_files(prefix: str) -> dict[Path, int]:
    """Return the files of the written layers among the devices whose names begin so, and how much of each is used."""
    found: dict[Path, int] = {}
    for layer in stores(prefix):
        with suppress(DeviceMapperError, OSError):  # it was given up, or is being removed
            store = f"{layer}{STORE}"
            number = _below(layer, _active(store, device_mapper.table(store))[0])
            found[loop.file_of(number)] = used_b(layer)
    return found


def give_back(file: Path, used_b: int) -> None:
    """Give back the disk blocks that a file has ahead, which nobody writes any more. A missing file is ignored."""
    with suppress(FileNotFoundError):
        allocation.give_back(file, used_b)


def go_on(prefix: str) -> None:
    """Resume the devices whose names begin so, but those at which requests wait: a killed agent may have suspended them."""
    for name in device_mapper.list_names(prefix):
        if MARK not in name or WAITING in name:
            continue
        status = device_mapper.status(name)
        if status is None or not status.suspended:
            continue
        try:
            device_mapper.resume(name)
        except DeviceMapperError as error:
            # It was resumed or removed meanwhile.
            if error.context["errno"] not in (errno.EINVAL, errno.ENXIO):
                raise


def give_up(prefix: str) -> None:
    """Let all requests fail that wait below the devices whose names begin so; layers that have any are lost then. Idempotent."""
    with lock:
        for name in device_mapper.list_names(prefix):
            with suppress(DeviceMapperError):  # it was removed meanwhile
                status = device_mapper.status(name)
                if status is None or not status.suspended:
                    continue
                if WAITING in name:
                    sectors = sum(target.sectors for target in device_mapper.table(name))
                    device_mapper.load(name, [Target(sectors, "error", "")], read_only=False)
                if WAITING in name or name.endswith(STORE):
                    device_mapper.resume(name)


def remove(layer: str) -> None:
    """Remove the store and the waiting devices of a layer's device that was removed. Idempotent."""
    with lock:
        device_mapper.remove(f"{layer}{STORE}", timeout_s=_REMOVE_TIMEOUT_S)
        _remove_unused(layer)
    forget(layer)


def forget(prefix: str) -> None:
    """Forget devices whose names begin so, and which were removed."""
    with lock:
        for name in [each for each in _activations if each.startswith(prefix)]:
            del _activations[name]


def rename(layer: str, new: str) -> None:
    """Give the devices of a layer's device another name. The layer's own is renamed by the caller afterwards."""
    with lock:
        for name in device_mapper.list_names(f"{layer}{MARK}"):
            device_mapper.rename(name, new + name.removeprefix(layer))


def _remove_unused(layer: str) -> None:
    """Remove waiting devices that no table leads to. One leads to the next, so removing one may free another."""
    while True:
        removed = False
        for name in device_mapper.list_names(f"{layer}{MARK}"):
            status = device_mapper.status(name)
            if name.endswith(STORE) or status is None or status.open_count:
                continue
            try:
                device_mapper.remove(name, timeout_s=0)
            except DeviceMapperError as error:
                if error.context["errno"] != errno.EBUSY:
                    raise
            else:
                removed = True
        if not removed:
            return


def _add_waiting(layer: str, file: int, size_b: int) -> int:
    """Make a waiting device, and the one above it; it waits before any table leads to them. Returns the number of the upper one."""
    names = device_mapper.list_names(f"{layer}{MARK}")
    pairs = ((f"{layer}{WAITING}{index}", f"{layer}{_UNFLUSHED}{index}") for index in range(len(names) + 1))
    waiting, unflushed = next(pair for pair in pairs if names.keys().isdisjoint(pair))
    number = device_mapper.create(waiting, [_part(file, 0, size_b)], read_only=False)
    device_mapper.suspend(waiting)
    parameters = f"1 {_CHUNK_SECTORS} 0 {device_mapper.text_of(number)} 0"
    table = [Target(size_b // SECTOR_B, _WITHOUT_FLUSHES, parameters)]
    return device_mapper.create(unflushed, table, read_only=False)


def _table(file: int, open_b: int, end_b: int, beyond: int) -> list[Target]:
    parts = [_part(file, 0, open_b)]
    if open_b < end_b:
        parts.append(_part(beyond, open_b, end_b))
    return parts


def _part(number: int, start_b: int, end_b: int) -> Target:
    start = start_b // SECTOR_B
    return Target(end_b // SECTOR_B - start, "linear", f"{device_mapper.text_of(number)} {start}")


def _exchange_table(name: str, table: list[Target]) -> None:
    device_mapper.load(name, table, read_only=False)
    _activate(name)


def _activate(name: str) -> None:
    with lock:
        activation = _activations.setdefault(name, threading.Lock())
    with activation:
        try:
            device_mapper.suspend(name)
        finally:
            device_mapper.resume(name)
