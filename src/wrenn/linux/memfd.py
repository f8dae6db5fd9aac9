"""Memory files that nobody can change any more."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Callable
from pathlib import Path
from typing import Final

from wrenn.linux.files import read_data, write_at

_SEALS: Final = fcntl.F_SEAL_SEAL | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE


def sealed_copy(path: Path, *, name: str, on_data: Callable[[int, bytes], None]) -> int:
    """A memfd with the content of the sparse file `path`, sealed against write, grow and shrink.

    Who maps it privately sees the same pages as all others and can alter none of them. The caller owns the descriptor.
    `on_data` sees each piece (offset, bytes) on the way, so that a digest needs no second read.
    """
    source = os.open(path, os.O_RDONLY)
    try:
        memory = open_copy(source, name=name, on_data=on_data)
        try:
            seal(memory)
        except BaseException:
            os.close(memory)
            raise
        return memory
    finally:
        os.close(source)


def open_copy(
    source: int, *, name: str, on_data: Callable[[int, bytes], None] = lambda _offset, _data: None
) -> int:
    """As `sealed_copy` of an open file, still to be sealed."""
    memory = os.memfd_create(name, os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    try:
        os.ftruncate(memory, os.fstat(source).st_size)
        for offset, data in read_data(source):
            write_at(memory, data, offset)
            on_data(offset, data)
    except BaseException:
        os.close(memory)
        raise
    return memory


def seal(memory: int) -> None:
    """Have nobody write, grow or shrink this memfd any more."""
    fcntl.fcntl(memory, fcntl.F_ADD_SEALS, _SEALS)
