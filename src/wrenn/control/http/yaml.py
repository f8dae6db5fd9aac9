"""Writes JSON values as YAML 1.2: nested lists and objects by indentation, everything else as JSON writes it."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Final, cast

_PLAIN_KEY: Final = re.compile(r"[A-Za-z_/$][A-Za-z0-9_/$.{}-]*")
_WORDS: Final = frozenset({"true", "false", "null", "yes", "no", "on", "off", "y", "n"})
"""Other types than strings, to some readers."""


def yaml_of(value: object) -> str:
    """Return the value as a YAML document."""
    return "\n".join(_lines(value)) + "\n"


def _lines(value: object) -> Iterator[str]:
    if isinstance(value, Mapping) and value:
        for key, item in cast("Mapping[str, object]", value).items():
            yield from _entry(f"{_key(key)}:", item)
    elif isinstance(value, list | tuple) and value:
        for item in cast("Sequence[object]", value):
            first, *rest = _lines(item)
            yield f"- {first}"
            yield from (f"  {line}" for line in rest)
    else:
        yield json.dumps(value, ensure_ascii=True)


def _entry(head: str, value: object) -> Iterator[str]:
    lines = list(_lines(value))
    if isinstance(value, Mapping | list | tuple) and value:
        yield head
        yield from (f"  {line}" for line in lines)
    else:
        yield f"{head} {lines[0]}"


def _key(key: str) -> str:
    is_plain = _PLAIN_KEY.fullmatch(key) is not None and key.lower() not in _WORDS
    return key if is_plain else json.dumps(key)
