"""Reads and writes a memory mapping of another process, and finds the pages that it has modified.

In a private mapping of a file, the pages that the process has written are anonymous; all others still belong
to the file. Kernel documentation: admin-guide/mm/pagemap. Needs CAP_SYS_PTRACE.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import struct
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from wrenn.base.units import PAGE_B

PageRuns = NDArray[np.int64]
"""Rows of (first page, count), in ascending order and not adjacent."""

_IOV_MAX: Final = 1024
_PAGEMAP_SCAN: Final = 0xC0606610
"""_IOWR('f', 16, struct pm_scan_arg), since Linux 6.7."""
_SCAN_ARG: Final = struct.Struct("=12Q")
_SCAN_REGIONS: Final = 8192
_IS_FILE: Final = 1 << 2
_IS_PRESENT: Final = 1 << 3
_IS_SWAPPED: Final = 1 << 4
_ENTRY_FILE: Final = np.uint64(1 << 61)
_ENTRY_THERE: Final = np.uint64(3 << 62)
"""The bits for present or swapped in an entry of pagemap."""

_libc = ctypes.CDLL(None, use_errno=True)
for _call in (_libc.process_vm_readv, _libc.process_vm_writev):
    _call.restype = ctypes.c_ssize_t
    _call.argtypes = [
        ctypes.c_int, ctypes.c_void_p, ctypes.c_ulong, ctypes.c_void_p, ctypes.c_ulong, ctypes.c_ulong
    ]  # fmt: skip


@dataclass(frozen=True, slots=True)
class ProcessMemory:
    """A page-aligned mapping at `address` in the process `pid`."""

    pid: int
    address: int
    size_b: int

    @property
    def pages(self) -> int:
        """Its size in pages."""
        return self.size_b // PAGE_B

    def own_pages(self) -> PageRuns:
        """Return the pages that differ, or may differ, from the mapped file.

        Raises:
            OSError: the process has ended.
        """
        with Path(f"/proc/{self.pid}/pagemap").open("rb", buffering=0) as pagemap:
            try:
                return _scan(pagemap.fileno(), self)
            except OSError as error:
                if error.errno not in (errno.ENOTTY, errno.EINVAL, errno.EPERM):
                    raise
                return read_pagemap(pagemap.fileno(), self)

    def read(self, runs: PageRuns, into: NDArray[np.uint8]) -> None:
        """Read the pages of `runs` consecutively into the start of `into`.

        Raises:
            OSError: the process has ended.
        """
        self._move(_libc.process_vm_readv, runs, into)

    def write(self, runs: PageRuns, content: NDArray[np.uint8]) -> None:
        """Write the start of `content` consecutively to the pages of `runs`.

        Raises:
            OSError: the process has ended.
        """
        self._move(_libc.process_vm_writev, runs, content)

    def _move(self, call: Callable[..., int], runs: PageRuns, local: NDArray[np.uint8]) -> None:
        assert int(runs[:, 1].sum()) * PAGE_B <= local.size, "the buffer holds all pages"
        remote = np.empty((len(runs), 2), dtype=np.uint64)
        remote[:, 0] = runs[:, 0] * PAGE_B + self.address
        remote[:, 1] = runs[:, 1] * PAGE_B
        at = int(local.ctypes.data)
        for start in range(0, len(remote), _IOV_MAX):
            part = np.ascontiguousarray(remote[start : start + _IOV_MAX])
            length = int(part[:, 1].sum())
            here = (ctypes.c_uint64 * 2)(at, length)
            moved = call(self.pid, ctypes.byref(here), 1, part.ctypes.data, len(part), 0)
            if moved != length:
                code = ctypes.get_errno() if moved < 0 else errno.EFAULT
                raise OSError(code, f"{os.strerror(code)} (memory of process {self.pid})")
            at += length


def find_mapping(pid: int, name: str) -> ProcessMemory | None:
    """Return the mapping of files whose path begins with `name`, as one range; None if there is none (yet)."""
    first = last = 0
    for line in Path(f"/proc/{pid}/maps").read_text().splitlines():
        fields = line.split(maxsplit=5)
        if len(fields) == 6 and fields[5].startswith(name):
            start, end = (int(bound, 16) for bound in fields[0].split("-"))
            first, last = first or start, end
    return ProcessMemory(pid, first, last - first) if last else None


def _scan(pagemap: int, memory: ProcessMemory) -> PageRuns:
    """Find modified pages by PAGEMAP_SCAN, which skips unpopulated ranges."""
    found: list[NDArray[np.int64]] = []
    regions = np.empty((_SCAN_REGIONS, 3), dtype=np.uint64)
    start, end = memory.address, memory.address + memory.size_b
    while start < end:
        argument = bytearray(
            _SCAN_ARG.pack(
                _SCAN_ARG.size, 0, start, end, 0, regions.ctypes.data, _SCAN_REGIONS, 0,
                _IS_FILE, _IS_FILE, _IS_PRESENT | _IS_SWAPPED, _IS_FILE,
            )
        )  # fmt: skip
        count = fcntl.ioctl(pagemap, _PAGEMAP_SCAN, argument)
        bounds = regions[:count, :2].astype(np.int64)
        found.append(
            np.stack([(bounds[:, 0] - memory.address) // PAGE_B, (bounds[:, 1] - bounds[:, 0]) // PAGE_B], 1)
        )
        start = _SCAN_ARG.unpack(argument)[4]
    return np.concatenate(found) if found else np.empty((0, 2), dtype=np.int64)


def read_pagemap(pagemap: int, memory: ProcessMemory) -> PageRuns:
    """Find modified pages by reading every entry, for kernels without PAGEMAP_SCAN."""
    raw = os.pread(pagemap, memory.pages * 8, memory.address // PAGE_B * 8)
    entries = np.frombuffer(raw, dtype=np.uint64)
    return runs_of(np.flatnonzero(((entries & _ENTRY_THERE) != 0) & ((entries & _ENTRY_FILE) == 0)))


def runs_of(pages: NDArray[np.int64]) -> PageRuns:
    """Convert ascending page numbers to runs."""
    if not len(pages):
        return np.empty((0, 2), dtype=np.int64)
    starts = np.flatnonzero(np.diff(pages, prepend=pages[0] - 2) != 1)
    counts = np.diff(starts, append=len(pages))
    return np.stack([pages[starts], counts], 1)


def pages_of(runs: PageRuns) -> NDArray[np.int64]:
    """Convert runs to page numbers."""
    total = int(runs[:, 1].sum())
    offsets = np.repeat(runs[:, 0] - np.concatenate(([0], np.cumsum(runs[:, 1])[:-1])), runs[:, 1])
    return offsets + np.arange(total, dtype=np.int64)
