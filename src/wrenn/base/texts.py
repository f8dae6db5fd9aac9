"""Texts of others, such as guests and libraries, made fit for logs and terminals."""

from __future__ import annotations

from typing import Final

LINE_LIMIT: Final = 500


def one_line(text: str) -> str:
    """Return the begin of a text on one line, with a space for each character that cannot be printed, lone surrogates included."""
    return "".join(c if c.isprintable() else " " for c in text[:LINE_LIMIT])
