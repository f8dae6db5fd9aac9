"""The end of a long output."""

from __future__ import annotations

from collections import deque
from typing import Final

_KEPT_B: Final = 16 * 1024 * 1024


class Tail:
    """Keeps at most the last 16 MiB that are added."""

    def __init__(self) -> None:
        self._pieces: deque[bytes] = deque()
        self._length = 0
        self._added = 0

    def add(self, data: bytes) -> None:
        """Add to the end."""
        self._pieces.append(data)
        self._length += len(data)
        self._added += len(data)
        while self._length - len(self._pieces[0]) >= _KEPT_B:
            self._length -= len(self._pieces.popleft())

    @property
    def is_cut(self) -> bool:
        """More was added than is kept."""
        return self._added > _KEPT_B

    def data(self) -> bytes:
        """What is kept."""
        return b"".join(self._pieces)[-_KEPT_B:]
