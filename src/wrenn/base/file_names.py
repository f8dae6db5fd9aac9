"""Names of files as text and back.

Linux names are bytes; JSON and protobuf carry text. A byte that is no part of valid UTF-8 travels as the private character
U+10FE00 + byte (U+10FE80 to U+10FEFF), and a name that holds one of these characters itself has each of its four bytes
escaped in turn. So every name has exactly one text, and every text leads to one name. `rust/envd/src/paths.rs` does the
same; `docs/design/files.md` says why.
"""

from __future__ import annotations

import re
from typing import Final

_BASE: Final = 0x10FE00
_ESCAPES: Final = re.compile("[\U0010fe80-\U0010feff]")
_SURROGATES: Final = re.compile("[\udc80-\udcff]")


def text_of(name: bytes) -> str:
    """The text of a name."""
    text = name.decode(errors="surrogateescape")
    # First what looks like an escape and is none, then the bytes that are no UTF-8.
    text = _ESCAPES.sub(lambda match: _escaped(match.group().encode()), text)
    return _SURROGATES.sub(lambda match: chr(ord(match.group()) - 0xDC00 + _BASE), text)


def name_of(text: str) -> bytes:
    """The name of a text.

    Raises:
        UnicodeEncodeError: it holds halves of characters, which no text does.
    """
    return _ESCAPES.sub(lambda match: chr(ord(match.group()) - _BASE + 0xDC00), _strict(text)).encode(
        errors="surrogateescape"
    )


def as_text(path: str | bytes) -> str:
    """The text of a path as Python programs have it: bytes, a text of ours, or what `os.fsdecode` gave.

    Raises:
        UnicodeEncodeError: it is none of these.
    """
    if isinstance(path, bytes):
        return text_of(path)
    return _strict(_SURROGATES.sub(lambda match: chr(ord(match.group()) - 0xDC00 + _BASE), path))


def _escaped(raw: bytes) -> str:
    return "".join(chr(_BASE + byte) for byte in raw)


def _strict(text: str) -> str:
    text.encode()
    return text
