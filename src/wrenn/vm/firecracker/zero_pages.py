"""Copies a memory that was saved whole, without its pages of zeros."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

from wrenn.base.units import MIB, PAGE_B
from wrenn.linux.files import translated, write_at

_PIECE_B: Final = MIB
_ZEROS: Final = bytes(_PIECE_B)


def copy_without_zeros(source: Path, destination: Path) -> None:
    """Write the new file `destination`, with holes for pages of zeros. Blocking.

    Raises:
        StorageFull: no room.
    """
    with source.open("rb") as reader, destination.open("xb") as writer:
        try:
            os.ftruncate(writer.fileno(), os.fstat(reader.fileno()).st_size)
            offset = 0
            while piece := reader.read(_PIECE_B):
                if piece != _ZEROS[: len(piece)]:
                    _write_pages(writer.fileno(), piece, offset)
                offset += len(piece)
        except OSError as error:
            raise translated(error, doing="save the memory of the template") from error


def _write_pages(fd: int, piece: bytes, offset: int) -> None:
    first = 0  # of the pages with content that are not written yet
    for at in range(0, len(piece) + PAGE_B, PAGE_B):
        page = piece[at : at + PAGE_B]
        if not page or page == _ZEROS[:PAGE_B]:
            if first < at:
                write_at(fd, piece[first:at], offset + first)
            first = at + PAGE_B
