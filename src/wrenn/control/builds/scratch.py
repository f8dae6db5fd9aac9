"""Temporary files for archives, within a limit for all builds of this replica and above a reserve of the disk's free space.

The teams of one owner have at most as much as is left for all others: however many owners take what they may, another one
still gets a part. They are in the data folder, whose disk is known, and have no names: they go with the process.
"""

from __future__ import annotations

import io
import os
import shutil
import tempfile
import threading
from collections import Counter
from pathlib import Path
from typing import BinaryIO, Final
from uuid import UUID

from wrenn.base.errors import Unavailable
from wrenn.base.units import GIB, KIB, MIB

_LIMIT_B: Final = 20 * GIB
"""An archive has at most 2.2 GiB unpacked, and so have all that it contains together. The first owner may have half of it."""
_RESERVE_B: Final = 2 * GIB
"""What stays free for everything else on this disk, as the database and the store."""
_LOOK_B: Final = 64 * MIB
"""Bytes between two looks at the free space."""
_BUFFER_B: Final = 256 * KIB


class ScratchSpace:
    """The temporary files of all builds of this replica. Safe to use from threads."""

    def __init__(self, folder: Path, *, limit_b: int = _LIMIT_B, reserve_b: int = _RESERVE_B) -> None:
        self._folder = folder
        self._limit_b = limit_b
        self._reserve_b = reserve_b
        self._used_b: Counter[UUID] = Counter()
        self._lock = threading.Lock()

    def new(self, owner: UUID) -> BinaryIO:
        """Open an empty file for reading and writing, for the teams of this owner. Writing raises Unavailable when there is no room. Blocking."""
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=self._folder, buffering=0) as file:
            return io.BufferedRandom(_ScratchFile(self, owner, os.dup(file.fileno())), _BUFFER_B)

    def take(self, owner: UUID, size_b: int, *, look: bool) -> None:
        """Count bytes before they are written; `look` at the free space of the disk, too. Raises Unavailable."""
        free_b = shutil.disk_usage(self._folder).free - self._reserve_b if look else None
        with self._lock:
            left_b = self._limit_b - self._used_b.total()
            if free_b is not None:
                left_b = min(left_b, free_b)
            if self._used_b[owner] + size_b > left_b:
                raise Unavailable("The control plane has no room for the archive at this moment. Try again.")
            self._used_b[owner] += size_b

    def give_back(self, owner: UUID, size_b: int) -> None:
        """Count bytes of a file that was closed."""
        with self._lock:
            self._used_b[owner] -= size_b
            if not self._used_b[owner]:
                del self._used_b[owner]


class _ScratchFile(io.FileIO):
    """A file whose bytes are counted. It is only appended to."""

    def __init__(self, space: ScratchSpace, owner: UUID, fd: int) -> None:
        super().__init__(fd, "r+b")
        self._space = space
        self._owner = owner
        self._taken_b = 0

    def write(self, data: object, /) -> int:
        """Write some of the bytes."""
        size_b = memoryview(data).nbytes  # type: ignore[arg-type] - any buffer
        looked = self._taken_b // _LOOK_B
        self._space.take(
            self._owner, size_b, look=not self._taken_b or (self._taken_b + size_b) // _LOOK_B > looked
        )
        self._taken_b += size_b
        return super().write(data)  # type: ignore[arg-type] - as above

    def close(self) -> None:
        """Remove the file."""
        self._space.give_back(self._owner, self._taken_b)
        self._taken_b = 0
        super().close()
