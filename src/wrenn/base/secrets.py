"""A type for text that must not be shown."""

from __future__ import annotations

import hashlib
import hmac


class Secret:
    """Wraps a token or password. `repr`, `str` and logs show a placeholder."""

    __slots__ = ("_text",)

    def __init__(self, text: str) -> None:
        self._text = text

    def reveal(self) -> str:
        """Return the text, for the one place that sends or hashes it."""
        return self._text

    def sha256_hex(self) -> str:
        """Return the SHA-256 of the UTF-8 text in hex, which is stored instead of the secret."""
        return hashlib.sha256(self._text.encode()).hexdigest()

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Secret) and hmac.compare_digest(self._text.encode(), other._text.encode())

    def __hash__(self) -> int:
        return hash(self.sha256_hex())

    def __repr__(self) -> str:
        return "Secret(…)"

    __str__ = __repr__
