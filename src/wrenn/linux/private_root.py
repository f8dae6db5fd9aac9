"""A root file system for confined processes that contains a few files of the host and nothing else.

It is a mount namespace to which only this process has a descriptor: a read-only tmpfs in which each file is a
read-only bind mount. It does not appear in the host's mount table, and disappears when the last process that
uses it has ended. Each confined process gets a copy of the namespace (`spawn.py`), so none can see another's
mounts.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import weakref
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TypeVar

from wrenn.linux import syscalls
from wrenn.linux.command import CommandError, run
from wrenn.linux.threads import start_in_own_thread

T = TypeVar("T")

LOADER: Final = Path("/lib64/ld-linux-x86-64.so.2")
SHELL: Final = Path("/bin/sh")
"""Starts the program, and is unmounted before the program runs."""
OWN_DESCRIPTORS: Final = "/proc/self/fd"
"""Where a process finds its own descriptors; nothing else is below `/proc`."""
_LIST_TIMEOUT_S: Final = 10.0
_LISTED: Final = re.compile(r"(/\S+) \(0x[0-9a-f]+\)")
_TMPFS_OPTIONS: Final = b"mode=0755,size=1m,nr_inodes=4k"
_STAGING: Final = Path("/sys")
"""Where the root is assembled, in a separate mount namespace: a folder that exists on every machine and
contains no programs."""
_PER_FILE: Final = syscalls.MS_RDONLY | syscalls.MS_NOSUID
_BIND: Final = syscalls.MS_REMOUNT | syscalls.MS_BIND


@dataclass(frozen=True, slots=True)
class RootFile:
    """A file in the root, or a folder with all that is in it.

    Attributes:
        path: path on the host and in the root.
        source: path on the host, if it differs.
        device: a device node, which the process may open.
    """

    path: Path
    source: Path | None = None
    device: bool = False


class PrivateRoot:
    """A mount namespace with the root file system. Closed by `close`, or when it is garbage-collected."""

    def __init__(self, namespace: int, library_path: str, shell: Path) -> None:
        self.namespace = namespace
        self.library_path = library_path
        """Value of LD_LIBRARY_PATH for programs in it: the root has no cache of the dynamic loader."""
        self.shell = shell
        self._close = weakref.finalize(self, os.close, namespace)

    def close(self) -> None:
        """Close the descriptor; processes that run in the root have their own copies."""
        self._close()


async def build_private_root(
    programs: Sequence[Path], *, files: Iterable[RootFile] = (), folders: Iterable[Path] = ()
) -> PrivateRoot:
    """Create a root with the programs (or loadable modules), their shared libraries, `files`, and the empty `folders`.

    Raises:
        CommandError: the dynamic loader does not list the libraries of a program, or the kernel refuses a
            mount.
    """
    loaded = (SHELL, *programs)
    lists = await asyncio.gather(*(_libraries(program) for program in loaded))
    libraries = {LOADER, *(library for found in lists for library in found)}
    library_folders = sorted({str(_canonical(library).parent) for library in libraries})
    # Folders first: a file that is in one of them is there then.
    contents = [*files, *(RootFile(path) for path in (*loaded, *sorted(libraries)))]
    try:
        namespace = start_in_own_thread(lambda: _assemble(contents, [*folders])).result()
    except OSError as error:
        raise CommandError(
            "The root file system of virtual machine monitors could not be made.",
            context={"error": str(error)},
        ) from error
    return PrivateRoot(namespace, ":".join(library_folders), _canonical(SHELL))


async def _libraries(program: Path) -> list[Path]:
    text = (await run([str(LOADER), "--list", str(program)], timeout_s=_LIST_TIMEOUT_S)).decode()
    return [Path(path) for path in _LISTED.findall(text)]


def _canonical(path: Path) -> Path:
    """Resolve symbolic links in the folders of the path, but not the file name, by which the loader looks for it."""
    return path.parent.resolve() / path.name


def _assemble(contents: Sequence[RootFile], folders: Sequence[Path]) -> int:
    syscalls.unshare(syscalls.CLONE_NEWNS)
    syscalls.mount(b"none", "/", syscalls.MS_REC | syscalls.MS_PRIVATE)
    with contextlib.ExitStack() as on_error:
        namespace = os.open("/proc/thread-self/ns/mnt", os.O_RDONLY | os.O_CLOEXEC)
        on_error.callback(os.close, namespace)
        syscalls.mount(
            b"wrenn", _STAGING, syscalls.MS_NOSUID | syscalls.MS_NODEV | syscalls.MS_NOEXEC,
            filesystem=b"tmpfs", options=_TMPFS_OPTIONS,
        )  # fmt: skip
        _add_links(contents)
        for file in contents:
            _add(file)
        for folder in (Path(OWN_DESCRIPTORS), *folders):
            _inside(folder).mkdir(parents=True, exist_ok=True)
        flags = _PER_FILE | syscalls.MS_NODEV | syscalls.MS_NOEXEC
        syscalls.mount(b"none", _STAGING, syscalls.MS_REMOUNT | flags)
        syscalls.change_root(_STAGING)
        on_error.pop_all()
    return namespace


def _inside(path: Path) -> Path:
    return _STAGING / path.relative_to("/")


def _add_links(contents: Iterable[RootFile]) -> None:
    """Create the host's top-level symbolic links, such as `/lib64`, that lead to any of the files."""
    for top in sorted({file.path.parts[1] for file in contents}):
        host = Path("/", top)
        if host.is_symlink():
            _inside(host).symlink_to(host.readlink())


def _add(file: RootFile) -> None:
    target = _inside(_canonical(file.path))
    if target.exists():
        return
    target.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
    source = (file.source or file.path).resolve()
    if source.is_dir():
        target.mkdir()
    else:
        target.touch(mode=0o000)
    syscalls.mount(bytes(source), target, syscalls.MS_BIND)
    flags = syscalls.MS_NOSUID | syscalls.MS_NOEXEC if file.device else _PER_FILE | syscalls.MS_NODEV
    syscalls.mount(b"none", target, _BIND | flags)
