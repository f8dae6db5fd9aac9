"""A stand-in for a VMM under test: has memory that a page-fault server fills, and tells what is in it.

Started as a program of its own, as a touch of memory that nobody fills stops the whole process. Each line of its input is a command.
"""

from __future__ import annotations

import array
import ctypes
import fcntl
import hashlib
import json
import mmap
import os
import socket
import struct
import sys

PAGE_B = 4096
_SYS_USERFAULTFD = 323
_USER_MODE_ONLY = 1
_UFFDIO_API = 0xC018AA3F
_UFFDIO_REGISTER = 0xC020AA00
_EVENT_REMOVE = 1 << 3
_MISSING = 1
_MADV_DONTNEED = 4

_libc = ctypes.CDLL(None, use_errno=True)
_libc.mmap.restype = ctypes.c_void_p
_libc.madvise.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]


def _region(size_b: int) -> int:
    address = _libc.mmap(
        None, ctypes.c_size_t(size_b), mmap.PROT_READ | mmap.PROT_WRITE,
        mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS, -1, ctypes.c_long(0),
    )  # fmt: skip
    assert address not in (None, ctypes.c_void_p(-1).value)
    return int(address)


def main(server: str, pages: list[int], message: str) -> None:
    """Connect with regions of these sizes. `message` is sent in place of the mappings, unless it is empty."""
    fd = _libc.syscall(_SYS_USERFAULTFD, os.O_CLOEXEC | os.O_NONBLOCK | _USER_MODE_ONLY)
    assert fd >= 0, os.strerror(ctypes.get_errno())
    fcntl.ioctl(fd, _UFFDIO_API, struct.pack("=3Q", 0xAA, _EVENT_REMOVE, 0))
    mappings: list[dict[str, int]] = []
    offset = 0
    for count in pages:
        address = _region(count * PAGE_B)
        fcntl.ioctl(fd, _UFFDIO_REGISTER, struct.pack("=4Q", address, count * PAGE_B, _MISSING, 0))
        mappings.append({
            "base_host_virt_addr": address, "size": count * PAGE_B, "offset": offset, "page_size": PAGE_B,
        })  # fmt: skip
        offset += count * PAGE_B
    connection = socket.socket(socket.AF_UNIX)
    connection.connect(server)
    sent = [os.open("/dev/null", os.O_RDWR)] if message == "other descriptor" else [fd]
    if message == "no descriptor":
        sent = []
    text = json.dumps(mappings) if not message or message.endswith("descriptor") else message
    rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", sent))] if sent else []
    connection.sendmsg([text.encode()], rights)
    print("sent", flush=True)

    def address_of(page: int) -> int:
        for mapping in mappings:
            if mapping["offset"] <= page * PAGE_B < mapping["offset"] + mapping["size"]:
                return mapping["base_host_virt_addr"] + page * PAGE_B - mapping["offset"]
        raise ValueError(page)

    for line in sys.stdin:
        command, *numbers = line.split()
        if command == "read":
            digests = hashlib.sha256()
            for page in map(int, numbers):
                digests.update(ctypes.string_at(address_of(page), PAGE_B))
            print(digests.hexdigest(), flush=True)
        elif command == "remove":
            first, count = map(int, numbers)
            assert _libc.madvise(address_of(first), count * PAGE_B, _MADV_DONTNEED) == 0
            print("removed", flush=True)
        elif command == "write":
            (page,) = map(int, numbers)
            ctypes.memset(address_of(page), 0xEE, PAGE_B)
            print("written", flush=True)


if __name__ == "__main__":
    main(sys.argv[1], [int(count) for count in sys.argv[2].split(",")], sys.argv[3])
