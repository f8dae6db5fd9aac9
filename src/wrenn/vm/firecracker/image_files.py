"""Memory images as files that Firecracker maps: a base's own file, and for a snapshot one that is composed when it is needed."""

from __future__ import annotations

import os
from functools import partial
from pathlib import Path

from wrenn.base.on_failure import on_failure
from wrenn.linux.files import copy_sparse, link_or_copy, remove_tree, translated
from wrenn.storage.folders import Folders
from wrenn.storage.snapshots import Snapshot
from wrenn.vm.base_files import open_memory
from wrenn.vm.firecracker.bases import FirecrackerBase
from wrenn.vm.memory_diff import MemoryFile, apply_diff
from wrenn.vm.memory_files import memory_path

IMAGE_MODE = 0o444
"""Each VMM opens the file as a user of its own; it sees a hard link in its jail."""


class ImageFiles:
    """Makes the files. Implements `wrenn.vm.memory_images.ImageLoader`."""

    def __init__(self, folders: Folders) -> None:
        self._folders = folders

    def prepare(self) -> None:
        """Remove the files of a former agent; those that VMs run on stay as long as the VMs do."""
        remove_tree(self._folders.memory_images)
        self._folders.memory_images.mkdir(mode=0o700)

    def load_base(self, key: str) -> int:
        """Open a base's memory, which never changes."""
        return open_memory(FirecrackerBase(key, self._folders.bases / key))

    def compose(self, below: int, snapshot: Snapshot) -> int:
        """Copy the image below, and lay the snapshot over it."""
        path = self._folders.memory_images / snapshot.manifest.snapshot_id
        path.unlink(missing_ok=True)
        compose(path, below, snapshot)
        return os.open(path, os.O_RDONLY | os.O_CLOEXEC)

    def drop(self, fd: int) -> None:
        """Close it, and remove its file if it was composed."""
        path = path_of(fd)
        os.close(fd)
        if path.parent == self._folders.memory_images:
            path.unlink(missing_ok=True)


def path_of(fd: int) -> Path:
    """Return the path of an open file."""
    return Path(f"/proc/self/fd/{fd}").readlink()


def link_image(memory: int, destination: Path) -> None:
    """Make an image appear at `destination`: as a link, or as a copy if its file was removed since it was opened.

    Raises:
        StorageFull: no room.
    """
    try:
        link_or_copy(path_of(memory), destination)
    except FileNotFoundError:
        fd = os.open(destination, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            copy_sparse(memory, fd)
            os.fchmod(fd, IMAGE_MODE)
        except OSError as error:
            raise translated(error, doing="prepare the sandbox's memory") from error
        finally:
            os.close(fd)


def compose(path: Path, below: int, snapshot: Snapshot) -> None:
    """Write the image `below` with the snapshot over it to the new file `path`.

    Raises:
        DamagedSnapshot: the snapshot is not what was saved. StorageFull: no room. The file is removed then.
    """
    memory = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        with on_failure(partial(path.unlink, missing_ok=True)):
            copy_sparse(below, memory)
            write_snapshot_pages(memory, snapshot)
            os.fchmod(memory, IMAGE_MODE)
    except OSError as error:
        raise translated(error, doing="prepare the sandbox's memory") from error
    finally:
        os.close(memory)


def write_snapshot_pages(memory: int, snapshot: Snapshot) -> None:
    """Write the pages of a snapshot to an open file of the same size."""
    file = MemoryFile(memory, os.fstat(memory).st_size)
    apply_diff(memory_path(snapshot.directory), snapshot.manifest.memory_digest, file)
