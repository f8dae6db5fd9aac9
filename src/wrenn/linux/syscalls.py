"""System calls for which Python has no function: namespaces, mounts and the credentials of one thread.

Each raises OSError if the kernel refuses it. Unlike those of the C library, the functions that change
credentials change only the calling thread, which should therefore end soon. Numbers are those of x86-64.
"""

from __future__ import annotations

import ctypes
import os
import struct
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Final

CLONE_FS: Final = 0x200
CLONE_FILES: Final = 0x400
CLONE_NEWNS: Final = 0x20000
CLONE_NEWUTS: Final = 0x4000000
CLONE_NEWIPC: Final = 0x8000000
CLONE_NEWPID: Final = 0x20000000
CLONE_NEWNET: Final = 0x40000000

MS_RDONLY: Final = 0x1
MS_NOSUID: Final = 0x2
MS_NODEV: Final = 0x4
MS_NOEXEC: Final = 0x8
MS_REMOUNT: Final = 0x20
MS_BIND: Final = 0x1000
MS_REC: Final = 0x4000
MS_PRIVATE: Final = 0x40000
MS_SHARED: Final = 0x100000
MNT_DETACH: Final = 2

_SYS_SETGROUPS: Final = 116
_SYS_SETRESUID: Final = 117
_SYS_SETRESGID: Final = 119
_SYS_CAPSET: Final = 126
_SYS_PIVOT_ROOT: Final = 155
_SYS_SETHOSTNAME: Final = 170
_SYS_SECCOMP: Final = 317
_SYS_OPEN_TREE: Final = 428
_SYS_MOVE_MOUNT: Final = 429
_SYS_CLOSE_RANGE: Final = 436

_OPEN_TREE_CLONE: Final = 1
_MOVE_MOUNT_F_EMPTY_PATH: Final = 4
_AT_FDCWD: Final = -100
_LAST_DESCRIPTOR: Final = 0xFFFFFFFF
_PR_CAPBSET_DROP: Final = 24
_PR_SET_SECUREBITS: Final = 28
_PR_SET_NO_NEW_PRIVS: Final = 38
_SECBIT_NO_SETUID_FIXUP: Final = 1 << 2
_SECCOMP_SET_MODE_FILTER: Final = 1
_SECCOMP_FILTER_FLAG_LOG: Final = 2
_BPF_INSTRUCTION_B: Final = 8
_CAPABILITY_VERSION_3: Final = 0x20080522

_libc: Final = ctypes.CDLL(None, use_errno=True)
_libc.syscall.restype = ctypes.c_long
_libc_with_gil: Final = ctypes.PyDLL(None, use_errno=True)
"""The same functions, called without releasing the global interpreter lock: for calls that take microseconds."""


def copy_descriptors() -> None:
    """Give the calling thread a descriptor table of its own, with copies of all descriptors.

    uvloop starts a process with the interpreter's lock held, and waits until everybody has closed the write end of a pipe.
    A copy of that end in a thread that itself waits for the lock would stop the whole program for ever, so the table is
    copied with the lock held: then there is no such pipe.
    """
    _check(_libc_with_gil.unshare(CLONE_FILES))


def unshare(flags: int) -> None:
    """Move the calling thread into new namespaces of the types in `flags`."""
    _check(_libc.unshare(flags))


def setns(namespace: int, kind: int) -> None:
    """Move the calling thread into the namespace that the descriptor refers to."""
    _check(_libc.setns(namespace, kind))


def mount(
    source: bytes,
    target: Path | str,
    flags: int,
    *,
    filesystem: bytes = b"none",
    options: bytes | None = None,
) -> None:
    """Mount a file system, bind a file, or change the flags of a mount."""
    _check(_libc.mount(source, os.fsencode(target), filesystem, ctypes.c_ulong(flags), options))


def unmount(target: Path | str) -> None:
    """Detach a mount at once; the kernel frees it when it is no longer in use."""
    _check(_libc.umount2(os.fsencode(target), MNT_DETACH))


def change_root(new_root: Path | str) -> None:
    """Make a mount the root of the calling thread's mount namespace, and unmount everything else there."""
    os.chdir(new_root)
    # With both arguments equal, the old root is mounted on top of the new one and can be unmounted without a
    # folder for it.
    _check(_libc.syscall(_SYS_PIVOT_ROOT, b".", b"."))
    unmount(".")
    os.chdir("/")


def clone_mount(path: Path | str) -> int:
    """Return a detached copy of the mount at `path`, or of a folder within it. The caller closes the descriptor."""
    flags = _OPEN_TREE_CLONE | os.O_CLOEXEC
    return _check(_libc.syscall(_SYS_OPEN_TREE, _AT_FDCWD, os.fsencode(path), flags))


def attach_mount(detached: int, target: Path | str) -> None:
    """Attach a mount made by `clone_mount` in the mount namespace of the calling thread."""
    arguments = (detached, b"", _AT_FDCWD, os.fsencode(target), _MOVE_MOUNT_F_EMPTY_PATH)
    _check(_libc.syscall(_SYS_MOVE_MOUNT, *arguments))


def set_host_name(name: bytes) -> None:
    """Set the host name in the UTS namespace of the calling thread."""
    _check(_libc.syscall(_SYS_SETHOSTNAME, name, len(name)))


def close_all_but(exceptions: Iterable[int]) -> None:
    """Close every descriptor of the calling thread except `exceptions`. The thread must have its own descriptor table (`copy_descriptors`)."""
    first = 0
    for descriptor in (*sorted(exceptions), _LAST_DESCRIPTOR):
        if descriptor > first:
            last = ctypes.c_uint(descriptor - 1)
            _check(_libc.syscall(_SYS_CLOSE_RANGE, ctypes.c_uint(first), last, 0))
        first = descriptor + 1


def drop_privileges_at_exec(uid: int, gid: int, groups: Sequence[int]) -> None:
    """Make programs that the calling thread executes run as this user, without capabilities and unable to gain any.

    The thread itself keeps its capabilities. As a side effect the kernel makes the whole process undumpable.
    """
    last = int(Path("/proc/sys/kernel/cap_last_cap").read_text())
    for capability in range(last + 1):
        _prctl(_PR_CAPBSET_DROP, capability)
    _clear_inheritable()
    _prctl(_PR_SET_NO_NEW_PRIVS, 1)
    _prctl(_PR_SET_SECUREBITS, _SECBIT_NO_SETUID_FIXUP)
    _check(_libc.syscall(_SYS_SETGROUPS, len(groups), (ctypes.c_uint32 * len(groups))(*groups)))
    _check(_libc.syscall(_SYS_SETRESGID, gid, gid, gid))
    _check(_libc.syscall(_SYS_SETRESUID, uid, uid, uid))


def add_seccomp_filter(program: bytes) -> None:
    """Install a classic BPF program as a seccomp filter of the calling thread; the kernel logs the calls that it denies."""
    code = ctypes.create_string_buffer(program, len(program))
    header = struct.pack("=H6xQ", len(program) // _BPF_INSTRUCTION_B, ctypes.addressof(code))
    arguments = (_SECCOMP_SET_MODE_FILTER, _SECCOMP_FILTER_FLAG_LOG, header)
    _check(_libc.syscall(_SYS_SECCOMP, *arguments))


def _clear_inheritable() -> None:
    status = dict(line.split(":", 1) for line in Path("/proc/thread-self/status").read_text().splitlines())
    effective, permitted = int(status["CapEff"], 16), int(status["CapPrm"], 16)
    header = (ctypes.c_uint32 * 2)(_CAPABILITY_VERSION_3, 0)
    low, high = 0xFFFFFFFF, 32
    data = (ctypes.c_uint32 * 6)(
        effective & low, permitted & low, 0, effective >> high, permitted >> high, 0
    )  # the lower halves of the three sets, then the upper ones
    _check(_libc.syscall(_SYS_CAPSET, header, data))


def _prctl(option: int, value: int) -> None:
    _check(
        _libc.prctl(option, ctypes.c_ulong(value), ctypes.c_ulong(0), ctypes.c_ulong(0), ctypes.c_ulong(0))
    )


def _check(result: int) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return result
