"""Memory images as sealed memfds: QEMU inherits their descriptors."""

from __future__ import annotations

import os
from functools import partial

from wrenn.base.on_failure import on_failure
from wrenn.linux import memfd
from wrenn.storage.folders import Folders
from wrenn.storage.snapshots import Snapshot
from wrenn.vm.base_files import load_memory
from wrenn.vm.memory_diff import MemoryFile, apply_diff
from wrenn.vm.memory_files import memory_path
from wrenn.vm.qemu.bases import QemuBase


class SealedImages:
    """Makes the memfds. Implements `wrenn.vm.memory_images.ImageLoader`."""

    def __init__(self, folders: Folders) -> None:
        self._folders = folders

    def load_base(self, key: str) -> int:
        """Copy a base's memory."""
        return load_memory(QemuBase(key, self._folders.bases / key))

    def compose(self, below: int, snapshot: Snapshot) -> int:
        """Copy the image below, and lay the snapshot over it."""
        memory = memfd.open_copy(below, name=f"wrenn-{snapshot.manifest.snapshot_id}")
        with on_failure(partial(os.close, memory)):
            size_b = os.fstat(memory).st_size
            apply_diff(
                memory_path(snapshot.directory), snapshot.manifest.memory_digest, MemoryFile(memory, size_b)
            )
            memfd.seal(memory)
        return memory

    def drop(self, fd: int) -> None:
        """Close it."""
        os.close(fd)
