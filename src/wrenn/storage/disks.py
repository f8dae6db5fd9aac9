"""Root disks: qcow2 overlays over a template's raw image.

An overlay names no backing file: the VMM is told the layers by descriptor, and a folder can be moved as a whole.
"""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Final

from wrenn.linux.command import run
from wrenn.linux.files import copy_file

_SIZE_AT: Final = 24
"""Offset of the size of the disk in a qcow2 header, 64 bits, big-endian."""


async def create_empty_overlay(path: Path, *, size_b: int) -> None:
    """Make an overlay that changes nothing yet: about 200 KB."""
    await run(["qemu-img", "create", "-q", "-f", "qcow2", str(path), str(size_b)], timeout_s=20)


def clone_overlay(empty: Path, path: Path) -> None:
    """Make a new overlay from an empty one of the same size; a copy costs a tenth of `qemu-img create`.

    Raises:
        StorageFull: no room.
    """
    copy_file(empty, path)


async def lay_overlay(top: Path, path: Path, *, size_b: int) -> None:
    """Make a new overlay for a disk of this size: a copy of `top`, or an empty one where `top` is for a smaller disk.

    Only an empty `top` may be smaller: what a VM wrote belongs to a disk of its own size.

    Raises:
        StorageFull: no room.
    """
    if disk_size_b(top) < size_b:
        await create_empty_overlay(path, size_b=size_b)
    else:
        clone_overlay(top, path)


def disk_size_b(overlay: Path) -> int:
    """Size of the disk that a guest sees with this overlay on top."""
    with overlay.open("rb") as file:
        file.seek(_SIZE_AT)
        return int(struct.unpack(">Q", file.read(8))[0])
