"""Operations on whole directory trees: copy, compare, exchange."""

from __future__ import annotations

import ctypes
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import xxhash

from wrenn.base.units import MIB
from wrenn.linux.command import CommandError, run
from wrenn.linux.files import remove_tree, translated

_COPY_TIMEOUT_S: Final = 60.0
REMOVE_TIMEOUT_S: Final = 600.0
"""Longest time for the removal of a tree: a million files on a slow disk."""
_BLOCK_B: Final = 512
_AT_FDCWD: Final = -100
_RENAME_EXCHANGE: Final = 2
_libc: Final = ctypes.CDLL(None, use_errno=True)


async def copy_tree(source: Path, destination: Path) -> None:
    """Copy a folder to a new one with owners, modes, times and links. Blocks are shared (reflink) if the file system supports it.

    Raises:
        CommandError: copying failed; nothing of the destination remains.
    """
    try:
        await run(
            ["cp", "-a", "--reflink=auto", "--", f"{source}/.", f"{destination}/"],
            timeout_s=_COPY_TIMEOUT_S,
        )
    except CommandError:
        remove_tree(destination)
        raise


async def remove_any_tree(path: Path) -> None:
    """Remove a folder that hostile programs have filled, as deep as it may be. No mount below it is followed, and a missing one is ignored.

    Raises:
        CommandError: something is left.
    """
    await run(["rm", "-rf", "--one-file-system", "--", str(path)], timeout_s=REMOVE_TIMEOUT_S)


async def pack_tree(source: Path, archive: Path, *, size_b: int | None = None) -> None:
    """Pack a folder into a new tar file, which is then made `size_b` bytes long, sparsely, if that is given.

    Raises:
        CommandError: packing failed; nothing of the archive remains.
    """
    try:
        # The format of POSIX keeps times and long names exactly.
        await run(
            [
                "tar",
                "--create",
                "--format=posix",
                "--numeric-owner",
                f"--file={archive}",
                f"--directory={source}",
                ".",
            ],
            timeout_s=_COPY_TIMEOUT_S,
        )
    except CommandError:
        archive.unlink(missing_ok=True)
        raise
    if size_b is not None:
        os.truncate(archive, size_b)


async def unpack_tree(archive: Path, destination: Path) -> None:
    """Unpack what `pack_tree` made into a new folder.

    Raises:
        CommandError: unpacking failed; nothing of the folder remains.
    """
    destination.mkdir(mode=0o755)
    try:
        await run(
            [
                "tar",
                "--extract",
                "--preserve-permissions",
                "--numeric-owner",
                f"--file={archive}",
                f"--directory={destination}",
            ],
            timeout_s=_COPY_TIMEOUT_S,
        )
    except CommandError:
        remove_tree(destination)
        raise


def exchange(first: Path, second: Path) -> None:
    """Exchange the names of two folders of one file system atomically.

    Raises:
        OSError: one is missing, or the file system does not support it.
    """
    if _libc.renameat2(_AT_FDCWD, os.fsencode(first), _AT_FDCWD, os.fsencode(second), _RENAME_EXCHANGE):
        code = ctypes.get_errno()
        raise translated(OSError(code, os.strerror(code), str(first)), doing=f"exchange {first.name}")


def _entries(root: Path) -> Iterator[tuple[str, os.stat_result]]:
    """Yield all entries of a tree by their relative paths, in a fixed order. Entries that are removed meanwhile are skipped."""
    for folder, folders, files in os.walk(root):
        folders.sort()
        for name in sorted((*folders, *files)):
            path = os.path.join(folder, name)  # noqa: PTH118 - a quarter of the time of a Path
            try:
                yield path, os.lstat(path)
            except FileNotFoundError:
                continue


def allocated_b(root: Path) -> int:
    """Return the bytes that a tree takes on the disk; 0 if it does not exist."""
    return sum(found.st_blocks * _BLOCK_B for _, found in _entries(root))


def digest_tree(root: Path) -> tuple[int, str]:
    """Return the bytes of all files of a tree, and a digest of names, modes, owners and content.

    Raises:
        FileNotFoundError: no such folder.
    """
    root.stat()
    digest, size_b = xxhash.xxh3_128(), 0
    for path, found in _entries(root):
        name = os.path.relpath(path, root)
        digest.update(os.fsencode(f"{name}\0{found.st_mode:o} {found.st_uid} {found.st_gid}\0"))
        if stat.S_ISLNK(found.st_mode):
            digest.update(os.fsencode(os.readlink(path)))  # noqa: PTH115 - as bytes
        elif stat.S_ISREG(found.st_mode):
            size_b += found.st_size
            with open(path, "rb") as file:  # noqa: PTH123 - as bytes
                while piece := file.read(MIB):
                    digest.update(piece)
    return size_b, digest.hexdigest()
