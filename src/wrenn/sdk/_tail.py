"""A buffer for the end of a long output."""

from __future__ import annotations

from collections import deque
from typing import Final

_LIMIT_B: Final = 16 * 1024 * 1024


class Tail:
    """Stores the last 16 MiB of the added data."""

    def __init__(self) -> None:
        self._pieces: deque[bytes] = deque()
        self._length = 0
        self._added = 0

    def add(self, data: bytes) -> None:
        """Append data."""
        self._pieces.append(data)
        self._length += len(data)
        self._added += len(data)
        while self._length - len(self._pieces[0]) >= _LIMIT_B:
            self._length -= len(self._pieces.popleft())

    @property
    def is_truncated(self) -> bool:
        """Whether data was discarded."""
        return self._added > _LIMIT_B

    def data(self) -> bytes:
        """The stored data."""
        return b"".join(self._pieces)[-_LIMIT_B:]
