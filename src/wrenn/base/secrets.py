"""A type for text that must not be shown."""

from __future__ import annotations

import hashlib
import hmac


class Secret:
    """Holds a token or password; `repr`, `str` and logs show only that there is one."""

    __slots__ = ("_text",)

    def __init__(self, text: str) -> None:
        self._text = text

    def reveal(self) -> str:
        """The text itself, for the one place that sends or hashes it."""
        return self._text

    def sha256_hex(self) -> str:
        """SHA-256 of the UTF-8 text in hex: what is stored in place of it."""
        return hashlib.sha256(self._text.encode()).hexdigest()

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Secret) and hmac.compare_digest(self._text.encode(), other._text.encode())

    def __hash__(self) -> int:
        return hash(self.sha256_hex())

    def __repr__(self) -> str:
        return "Secret(…)"

    __str__ = __repr__
