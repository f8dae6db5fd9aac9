"""Files in the jail of a VMM, which owns its root folder and may have put anything there.

So nothing in it is followed: a file is moved out under its own name, and looked at afterwards.
"""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from wrenn.base.units import PAGE_B
from wrenn.linux.files import data_extents
from wrenn.linux.process_memory import PageRuns, pages_of, runs_of
from wrenn.storage.errors import DamagedSnapshot

API = "api"
DISK = "disk"
KERNEL = "kernel"
INITRAMFS = "initramfs"
MEMORY = "memory"
"""The memory image that a restored VM maps; of a cold boot, the memory that it saves."""
DIRTIED = "dirtied"
"""The pages that differ from the memory image: those of the snapshot that the VM was restored from, and all that were saved since."""
PAGER = "uffd"
"""The socket of the page-fault server."""
STATE = "state"


def take_file(path: Path, destination: Path) -> None:
    """Move a file that the VMM wrote out of its jail; it is root's then.

    Raises:
        DamagedSnapshot: it is no file of its own. FileNotFoundError: it is missing.
    """
    path.rename(destination)
    fd = os.open(destination, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        status = os.fstat(fd)
        # A second link could be a file of others, whose mode must not be changed.
        if not stat.S_ISREG(status.st_mode) or status.st_nlink != 1:
            raise DamagedSnapshot("The virtual machine saved something else than a file.")
        os.fchown(fd, os.geteuid(), os.getegid())
        os.fchmod(fd, 0o400)
    finally:
        os.close(fd)


def open_dirtied(root: Path, *, size_b: int) -> int:
    """Open the file of dirtied pages; the caller closes it.

    Raises:
        DamagedSnapshot: it is not what Firecracker writes.
    """
    try:
        fd = os.open(root / DIRTIED, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        raise DamagedSnapshot("The virtual machine did not save its memory.") from error
    status = os.fstat(fd)
    if not stat.S_ISREG(status.st_mode) or status.st_size != size_b:
        os.close(fd)
        raise DamagedSnapshot("The virtual machine saved a memory of another size.")
    return fd


@dataclass(frozen=True, slots=True)
class DirtiedPages:
    """A sparse file with pages of a guest's RAM. Implements `wrenn.vm.memory_diff.MemorySource`.

    Attributes:
        also: another file of that size: pages that it has count as dirtied, and are zero unless this one has them.
    """

    fd: int
    size_b: int
    also: int | None = None

    @property
    def pages(self) -> int:
        """The RAM's size in pages."""
        return self.size_b // PAGE_B

    def own_pages(self) -> PageRuns:
        """Return the pages that the file has."""
        runs = _pages_with_data(self.fd, self.pages)
        if self.also is not None:
            runs = runs_of(np.union1d(pages_of(runs), pages_of(_pages_with_data(self.also, self.pages))))
        return runs

    def read(self, runs: PageRuns, into: NDArray[np.uint8]) -> None:
        """Read the pages of `runs` consecutively into the start of `into`."""
        view, at = into.data.cast("B"), 0
        for page, count in runs.tolist():
            end = at + count * PAGE_B
            offset = page * PAGE_B
            while at < end:
                read = os.preadv(self.fd, [view[at:end]], offset)
                if read == 0:
                    raise DamagedSnapshot("The virtual machine cut the memory that it saved.")
                at, offset = at + read, offset + read


def _pages_with_data(fd: int, pages: int) -> PageRuns:
    """Return the pages that a file has. The VMM may change its size meanwhile."""
    try:
        extents = [(start // PAGE_B, min(-(-end // PAGE_B), pages)) for start, end in data_extents(fd)]
    except OSError as error:
        raise DamagedSnapshot("The virtual machine changed the memory that it saved.") from error
    runs = [(first, end - first) for first, end in extents if first < end]
    return np.array(runs, dtype=np.int64).reshape(-1, 2)
