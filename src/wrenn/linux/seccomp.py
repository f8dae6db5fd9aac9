"""System calls that a confined process has no use for, refused by the kernel.

A list of what is denied, not of what is allowed: it comes on top of the filter that QEMU installs itself, and closes the
interfaces that have most often led from an unprivileged process into the kernel. A process that makes a call of `_DEADLY` is
ended with SIGSYS, and the kernel logs it; those of `_REFUSED` fail, since libraries try them and can do without.
Numbers are those of x86-64.
"""

from __future__ import annotations

import errno
import struct
from typing import Final

from wrenn.linux import syscalls

_DEADLY: Final = {
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
_REFUSED: Final = {
    "socket": (41, errno.EACCES),  # all that a VMM talks over, it inherits
    "io_uring_setup": (425, errno.ENOSYS),
    "clone3": (
        435,
        errno.ENOSYS,
    ),  # its flags lie in memory, where no filter sees them; libraries use `clone` then
}
_CLONE: Final = 56
_NEW_NAMESPACES: Final = 0x7E02_0000
"""Flags of `clone` for namespaces of a mount, cgroup, uts, ipc, user, pid or net kind: deadly too. One of users gives all rights."""

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
    """Install the filter in the calling thread; what it executes keeps it. Needs `no_new_privs` or CAP_SYS_ADMIN.

    The thread itself is bound by it too: a call of `_DEADLY` would end the whole process.
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
    actions = [(number, _KILL) for number in _DEADLY.values()]
    actions += [(number, _ERRNO | code) for number, code in _REFUSED.values()]
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
