"""Root disks as qcow2 overlays on a template's raw image.

An overlay names no backing file: the VMM is told the layers by descriptor, and a folder can be moved as a whole.
"""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Final

import xxhash

from wrenn.base.units import MIB
from wrenn.linux.command import run
from wrenn.linux.files import copy_file
from wrenn.storage.errors import DamagedSnapshot
from wrenn.storage.layers import LayerSeal
from wrenn.vm.disks import DiskRef
from wrenn.vm.layer_files import LayerFiles, missing_layer
from wrenn.vm.qemu.bases import QemuBase, QemuBases

_SUFFIX: Final = ".qcow2"
_SIZE_AT: Final = 24
"""Offset of the size of the disk in a qcow2 header, 64 bits, big-endian."""
_DIGEST_LIMIT_B: Final = 64 * MIB
"""Up to here a digest costs less than 20 ms; of larger layers only the size is compared."""
_COMMAND_TIMEOUT_S: Final = 20.0


async def create_empty_overlay(path: Path, *, size_b: int) -> None:
    """Create an overlay without content: about 200 KB."""
    await run(
        ["qemu-img", "create", "-q", "-f", "qcow2", str(path), str(size_b)], timeout_s=_COMMAND_TIMEOUT_S
    )


def disk_size_b(overlay: Path) -> int:
    """Return the size of the disk that a guest sees with this overlay on top."""
    with overlay.open("rb") as file:
        file.seek(_SIZE_AT)
        field = file.read(8)
    # Of a file that a VMM cut short: none.
    return int(struct.unpack(">Q", field)[0]) if len(field) == 8 else 0


class Qcow2Disks(LayerFiles):
    """The layers of a host, one qcow2 file each. Implements `wrenn.vm.disks.DiskChain`."""

    def __init__(self, root: Path, bases: QemuBases) -> None:
        super().__init__(root, suffix=_SUFFIX)
        self._bases = bases

    def files_of(self, disk: DiskRef) -> tuple[Path, ...]:
        """Return the files of a disk: layers, newest first, then the base's overlay and the raw image."""
        base = self._base(disk.base)
        return (*(self.path(layer) for layer in disk.layers), base.disk, base.image)

    def _base(self, key: str) -> QemuBase:
        return self._bases.of(key)

    async def create(self, layer_id: str, below: DiskRef, *, size_b: int, copy_of: str = "") -> None:
        """Make a new layer.

        It is a copy of a frozen one, or of the base's empty one: that costs a tenth of `qemu-img create`.
        """
        path = self.path(layer_id)
        if copy_of:
            # No program of the host may open what a VMM wrote: its header can name any file of the host. So it is not resized.
            if self.size_b(copy_of) < size_b:
                raise DamagedSnapshot(f"A part of the disk, {copy_of}, is smaller than the disk.")
            copy_file(self.path(copy_of), path)
        elif disk_size_b(empty := self._base(below.base).empty_disk) < size_b:
            await create_empty_overlay(path, size_b=size_b)
        else:
            copy_file(empty, path)

    def seal(self, layer_id: str) -> LayerSeal:
        """Return the seal of a frozen layer and make its file read-only."""
        path = self.path(layer_id)
        path.chmod(0o400)
        return LayerSeal(layer_id, path.stat().st_size, _digest(path))

    def check(self, expected: LayerSeal) -> None:
        """Compare a layer with its seal."""
        path = self.path(expected.layer_id)
        try:
            same = path.stat().st_size == expected.size_b and _digest(path) == expected.digest
        except FileNotFoundError as error:
            raise missing_layer(expected.layer_id) from error
        if not same:
            raise DamagedSnapshot(f"A part of the disk, {expected.layer_id}, is not what was saved.")

    def size_b(self, layer_id: str) -> int:
        """Return the disk size in the layer's header. Untrusted: a compromised VMM can write any value there."""
        return disk_size_b(self.path(layer_id))

    def image_size_b(self, base: str) -> int:
        """Size of the raw image."""
        return self._base(base).image.stat().st_size

    async def restore(self, layer_id: str, file: Path) -> None:
        """Give the file the layer's name; it is not opened, as a VMM of another host wrote it."""
        file.chmod(0o400)
        file.rename(self.path(layer_id))


def _digest(path: Path) -> str:
    if path.stat().st_size > _DIGEST_LIMIT_B:
        return ""
    digest = xxhash.xxh3_128()
    with path.open("rb") as file:
        while piece := file.read(MIB):
            digest.update(piece)
    return digest.hexdigest()
