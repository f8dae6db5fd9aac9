"""Converts file names between bytes and text.

Linux names are bytes; JSON and protobuf carry text. A byte that is not part of valid UTF-8 is represented by
the private-use character U+10FE00 + byte (U+10FE80 to U+10FEFF), and a name that contains such a character
has each of the character's four bytes escaped in turn. So the mapping is one to one in both directions.
`rust/envd/src/paths.rs` does the same; `docs/design/files.md` has the reasons.
"""

from __future__ import annotations

import re
from typing import Final

_BASE: Final = 0x10FE00
_ESCAPES: Final = re.compile("[\U0010fe80-\U0010feff]")
_SURROGATES: Final = re.compile("[\udc80-\udcff]")


def name_to_text(name: bytes) -> str:
    """Return the text for a file name."""
    text = name.decode(errors="surrogateescape")
    # First escape the characters that look like an escape, then the bytes that are not valid UTF-8.
    text = _ESCAPES.sub(lambda match: _escaped(match.group().encode()), text)
    return _SURROGATES.sub(lambda match: chr(ord(match.group()) - 0xDC00 + _BASE), text)


def text_to_name(text: str) -> bytes:
    """Return the file name for a text.

    Raises:
        UnicodeEncodeError: the text contains lone surrogates.
    """
    return _ESCAPES.sub(lambda match: chr(ord(match.group()) - _BASE + 0xDC00), _strict(text)).encode(
        errors="surrogateescape"
    )


def path_to_text(path: str | bytes) -> str:
    """Return the text for a path that a Python program passes: bytes, our text form, or a result of `os.fsdecode`.

    Raises:
        UnicodeEncodeError: the text contains other lone surrogates than those of `os.fsdecode`.
    """
    if isinstance(path, bytes):
        return name_to_text(path)
    return _strict(_SURROGATES.sub(lambda match: chr(ord(match.group()) - 0xDC00 + _BASE), path))


def _escaped(raw: bytes) -> str:
    return "".join(chr(_BASE + byte) for byte in raw)


def _strict(text: str) -> str:
    text.encode()
    return text
