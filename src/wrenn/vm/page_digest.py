"""A digest of a memory image that does not depend on holes in its file."""

from __future__ import annotations

import hashlib
import struct
from typing import Final

from wrenn.base.units import PAGE_B

_ZERO: Final = bytes(PAGE_B)
_OFFSET: Final = struct.Struct("<Q")


class PageDigest:
    """SHA-256 over (offset, content) of each page that is not all zero, in order of offset."""

    def __init__(self) -> None:
        self._hash = hashlib.sha256()

    def update(self, offset: int, data: bytes) -> None:
        """Add `data` at `offset`, a multiple of the page size; holes may be omitted."""
        assert offset % PAGE_B == 0, "data of a memory image starts on a page"
        for start in range(0, len(data), PAGE_B):
            page = data[start : start + PAGE_B]
            if page != _ZERO:
                self._hash.update(_OFFSET.pack(offset + start))
                self._hash.update(page)

    def hexdigest(self) -> str:
        """Return the digest so far."""
        return self._hash.hexdigest()
