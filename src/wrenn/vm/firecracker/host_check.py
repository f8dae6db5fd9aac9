"""Whether this host has what Firecracker's driver needs besides KVM and the programs: found out by doing it."""

from __future__ import annotations

import errno
import logging
import os
import tempfile
from functools import partial
from pathlib import Path
from typing import Final

from wrenn.base.errors import StorageFull, WrennError
from wrenn.base.units import PAGE_B
from wrenn.linux import allocation, device_mapper
from wrenn.linux.files import data_extents
from wrenn.linux.threads import run_to_end
from wrenn.vm.firecracker import cow_space
from wrenn.vm.firecracker.disks import DmDisks

_log = logging.getLogger(__name__)

_ST_NODEV: Final = 4
_LOOP_CONTROL: Final = Path("/dev/loop-control")
_PAGES: Final = 64


class _ProbeFiles:
    """The files of a disk that is made for the check."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def image(self, key: str) -> Path:
        return self.folder / f"{key}.image"

    def written(self, key: str) -> Path:
        return self.folder / f"{key}.cow"


async def why_not_usable(folder: Path, *, is_in_use: bool = False) -> str:
    """Return why VMs with their files in this existing folder cannot run here, and what to do; empty if they can.

    If it `is_in_use`, a file system that cannot keep space for their disks is not enough: an agent must manage those that are there.

    On a full disk the rest is not found out: an agent must start there, to free space.
    """
    if os.statvfs(folder).f_flag & _ST_NODEV:
        return f"the disk of {folder} is mounted with nodev, and each VM has device nodes there"
    try:
        return await _why_no_files(folder, is_in_use=is_in_use)
    except StorageFull:
        return ""
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            return ""
        raise


async def _why_no_files(folder: Path, *, is_in_use: bool) -> str:
    with tempfile.TemporaryDirectory(prefix=".firecracker-", dir=folder) as probe:
        if not await run_to_end(partial(keeps_pages_apart, Path(probe))):
            return (
                f"the file system of {folder} does not say exactly which pages of a file are written, by which memory is saved; ext4 and "
                "XFS with blocks of 4 KiB do"
            )
        if not await run_to_end(partial(allocation.overwrites_in_place, Path(probe))):
            reason = (
                f"the file system of {folder} cannot keep space for what sandboxes write, so their disks would be lost when it is full; "
                "ext4 and XFS can"
            )
            if not is_in_use:
                return reason
            _log.warning("move the sandboxes of this host away", extra={"reason": reason})
        return await _why_no_disks(Path(probe))


def keeps_pages_apart(folder: Path) -> bool:
    """Whether single pages of sparse files, of zeros too, are told from holes. Blocking."""
    pages = {3: b"x" * PAGE_B, 5: bytes(PAGE_B), 40: bytes(PAGE_B)}
    with tempfile.TemporaryFile(dir=folder) as file:
        fd = file.fileno()
        os.ftruncate(fd, _PAGES * PAGE_B)
        for number, content in pages.items():
            os.pwrite(fd, content, number * PAGE_B)
        for _ in ("in memory", "on disk"):
            extents = [(start // PAGE_B, end / PAGE_B) for start, end in data_extents(fd)]
            if extents != [(number, number + 1) for number in pages]:
                return False
            os.fsync(fd)
    return True


async def _why_no_disks(folder: Path) -> str:
    if not _LOOP_CONTROL.exists():
        return f"there is no {_LOOP_CONTROL}; run: modprobe loop"
    if not device_mapper.is_available():
        return "the kernel has no device-mapper; run: modprobe dm_mod"
    files = _ProbeFiles(folder)
    with files.image("probe").open("wb") as image:
        # More than a layer has ahead at first, so that it has all kinds of devices.
        image.truncate(2 * cow_space.FIRST_B)
    disks = DmDisks(folder, files, prefix=f"wrenn-probe-{os.getpid()}")
    try:
        disk = await disks.attach_boot("probe", image=files.image("probe"), written=files.written("probe"))
        await disk.detach()
    except StorageFull:
        raise
    except (WrennError, OSError) as error:
        return f"a disk of device-mapper cannot be made ({error}); run: modprobe dm_snapshot && modprobe dm_unstripe"
    return ""
