"""Temporary files for archives, within a limit for all builds of this replica and above a reserve of the disk's free space.

They are in the data folder, whose disk is known, and have no names: they go with the process.
"""

from __future__ import annotations

import io
import os
import shutil
import tempfile
import threading
from pathlib import Path
from typing import BinaryIO, Final

from wrenn.base.errors import Unavailable
from wrenn.base.units import GIB, KIB, MIB

_LIMIT_B: Final = 10 * GIB
"""An archive has at most 2.2 GiB unpacked, and so have all that it contains together."""
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
        self._used_b = 0
        self._lock = threading.Lock()

    def new(self) -> BinaryIO:
        """Open an empty file for reading and writing. Writing raises Unavailable when there is no room. Blocking."""
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=self._folder, buffering=0) as file:
            return io.BufferedRandom(_ScratchFile(self, os.dup(file.fileno())), _BUFFER_B)

    def take(self, size_b: int, *, look: bool) -> None:
        """Count bytes before they are written. Raises Unavailable."""
        is_full = look and shutil.disk_usage(self._folder).free < self._reserve_b + size_b
        with self._lock:
            if is_full or self._used_b + size_b > self._limit_b:
                raise Unavailable("The control plane has no room for the archive at this moment. Try again.")
            self._used_b += size_b

    def give_back(self, size_b: int) -> None:
        """Count bytes of a file that was closed."""
        with self._lock:
            self._used_b -= size_b


class _ScratchFile(io.FileIO):
    """A file whose bytes are counted. It is only appended to."""

    def __init__(self, space: ScratchSpace, fd: int) -> None:
        super().__init__(fd, "r+b")
        self._space = space
        self._taken_b = 0

    def write(self, data: object, /) -> int:
        """Write some of the bytes."""
        size_b = memoryview(data).nbytes  # type: ignore[arg-type] - any buffer
        looked = self._taken_b // _LOOK_B
        self._space.take(size_b, look=not self._taken_b or (self._taken_b + size_b) // _LOOK_B > looked)
        self._taken_b += size_b
        return super().write(data)  # type: ignore[arg-type] - as above

    def close(self) -> None:
        """Remove the file."""
        self._space.give_back(self._taken_b)
        self._taken_b = 0
        super().close()
