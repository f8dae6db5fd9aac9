"""The forms that the text of an API key may have."""

from __future__ import annotations

from enum import StrEnum


class KeyFormat(StrEnum):
    """The form of a key's text. It has no effect on what the key may be used for."""

    WRENN = "wrenn"
    E2B = "e2b"
