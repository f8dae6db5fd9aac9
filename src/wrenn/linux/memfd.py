"""Immutable files in memory (sealed memfds)."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Final

from wrenn.base.on_failure import on_failure
from wrenn.linux.files import read_data, write_at

_SEALS: Final = fcntl.F_SEAL_SEAL | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE


def sealed_copy(path: Path, *, name: str, on_data: Callable[[int, bytes], None]) -> int:
    """Create a memfd with the content of the sparse file `path`, sealed against write, grow and shrink.

    All processes that map it privately share its pages and cannot modify them. The caller owns the
    descriptor. `on_data` is called with each piece (offset, bytes) while it is copied, so that a digest needs
    no second read.
    """
    source = os.open(path, os.O_RDONLY)
    try:
        memory = open_copy(source, name=name, on_data=on_data)
        with on_failure(partial(os.close, memory)):
            seal(memory)
        return memory
    finally:
        os.close(source)


def open_copy(
    source: int, *, name: str, on_data: Callable[[int, bytes], None] = lambda _offset, _data: None
) -> int:
    """As `sealed_copy`, for an open file and without sealing."""
    memory = os.memfd_create(name, os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    with on_failure(partial(os.close, memory)):
        os.ftruncate(memory, os.fstat(source).st_size)
        for offset, data in read_data(source):
            write_at(memory, data, offset)
            on_data(offset, data)
    return memory


def seal(memory: int) -> None:
    """Seal a memfd against write, grow and shrink."""
    fcntl.fcntl(memory, fcntl.F_ADD_SEALS, _SEALS)
