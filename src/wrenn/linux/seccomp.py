"""A seccomp filter that denies system calls which a confined process does not need.

It is a deny list on top of the filter that QEMU installs itself, and closes the interfaces through which
unprivileged processes have most often attacked the kernel. A process that makes a call in `_KILLED` is killed
with SIGSYS, and the kernel logs it; calls in `_DENIED` fail, because libraries try them and can do without.
Numbers are those of x86-64.
"""

from __future__ import annotations

import errno
import struct
from typing import Final

from wrenn.linux import syscalls

_KILLED: Final = {
    "ptrace": 101, "syslog": 103, "mknod": 133, "pivot_root": 155, "chroot": 161, "acct": 163, "settimeofday": 164,
    "mount": 165, "umount2": 166, "swapon": 167, "swapoff": 168, "reboot": 169, "sethostname": 170,
    "setdomainname": 171, "iopl": 172, "ioperm": 173, "init_module": 175, "delete_module": 176, "quotactl": 179,
    "clock_settime": 227, "kexec_load": 246, "add_key": 248, "request_key": 249, "keyctl": 250, "mknodat": 259,
    "unshare": 272, "perf_event_open": 298, "fanotify_init": 300, "name_to_handle_at": 303,
    "open_by_handle_at": 304, "setns": 308, "process_vm_readv": 310, "process_vm_writev": 311, "kcmp": 312,
    "finit_module": 313, "kexec_file_load": 320, "bpf": 321, "userfaultfd": 323, "open_tree": 428, "move_mount": 429,
    "fsopen": 430, "fsconfig": 431, "fsmount": 432, "fspick": 433, "pidfd_open": 434, "pidfd_getfd": 438,
    "mount_setattr": 442, "quotactl_fd": 443,
}  # fmt: skip
_DENIED: Final = {
    "socket": (41, errno.EACCES),  # a VMM inherits all sockets that it uses
    "io_uring_setup": (425, errno.ENOSYS),
    "clone3": (
        435,
        errno.ENOSYS,
    ),  # its flags are in memory, which filters cannot read; libraries fall back to `clone`
}
_CLONE: Final = 56
_NEW_NAMESPACES: Final = 0x7E02_0000
"""Flags of `clone` that create a mount, cgroup, uts, ipc, user, pid or net namespace. They are deadly too: a
user namespace grants all capabilities."""

_ARCH_X86_64: Final = 0xC000003E
_X32: Final = 0x40000000
_KILL: Final = 0x80000000
_ERRNO: Final = 0x00050000
_ALLOW: Final = 0x7FFF0000
_LOAD_WORD: Final = 0x20
_JUMP_EQUAL: Final = 0x15
_JUMP_GREATER_EQUAL: Final = 0x35
_JUMP_ANY_BIT: Final = 0x45
_RETURN: Final = 0x06
_NUMBER_OFFSET: Final = 0
_ARCH_OFFSET: Final = 4
_FIRST_ARGUMENT_OFFSET: Final = 16


def deny_unused_calls() -> None:
    """Install the filter in the calling thread; programs that it executes inherit it. Needs `no_new_privs` or CAP_SYS_ADMIN.

    It applies to the thread itself too: a call in `_KILLED` would kill the whole process.
    """
    syscalls.add_seccomp_filter(_program())


def _program() -> bytes:
    code = [
        (_LOAD_WORD, 0, 0, _ARCH_OFFSET),
        (_JUMP_EQUAL, 1, 0, _ARCH_X86_64),
        (_RETURN, 0, 0, _KILL),
        (_LOAD_WORD, 0, 0, _NUMBER_OFFSET),
        (_JUMP_GREATER_EQUAL, 0, 1, _X32),
        (_RETURN, 0, 0, _KILL),
    ]
    actions = [(number, _KILL) for number in _KILLED.values()]
    actions += [(number, _ERRNO | code) for number, code in _DENIED.values()]
    for number, action in actions:
        code += [(_JUMP_EQUAL, 0, 1, number), (_RETURN, 0, 0, action)]
    code += [
        (_JUMP_EQUAL, 0, 3, _CLONE),
        (_LOAD_WORD, 0, 0, _FIRST_ARGUMENT_OFFSET),
        (_JUMP_ANY_BIT, 0, 1, _NEW_NAMESPACES),
        (_RETURN, 0, 0, _KILL),
        (_RETURN, 0, 0, _ALLOW),
    ]
    return b"".join(struct.pack("=HBBI", *instruction) for instruction in code)
