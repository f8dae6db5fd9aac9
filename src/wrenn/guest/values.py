"""Converts data from the guest to validated values, or raises `AgentFailure`.

Decoders raise more exceptions than they document: deeply nested JSON raises `RecursionError`, a number of a
thousand digits `ValueError`, and text may contain lone surrogates, which cannot be encoded later.
"""

from __future__ import annotations

import json
from typing import Any, Final, TypeVar, cast

from protobuf import Message

from wrenn.base.errors import AgentFailure
from wrenn.base.texts import one_line
from wrenn.protocol.wire import check_fields

M = TypeVar("M", bound=Message[Any])

_JSON_VALUES_LIMIT: Final = 65_536
"""Values of one JSON text. Parsing holds the interpreter's lock to its end: this many take some milliseconds."""
_JSON_DIGITS_LIMIT: Final = 20
"""Of a whole number: the time to convert one grows with the square of its length."""


def guest_text(text: object) -> str:
    """Sanitize a text from the guest for display: short, printable, one line, no lone surrogates."""
    if not isinstance(text, str | int | float):
        # A list may be deeply nested, so that even `str` fails.
        return ""
    return one_line(str(text))


def json_object(body: bytes) -> dict[str, Any]:
    """Parse `body` as a JSON object.

    Raises:
        AgentFailure: it is not a JSON object, or may have more than `_JSON_VALUES_LIMIT` values.
    """
    # Each value follows one of these characters. In texts they count too, which only makes the limit stricter.
    if body.count(b",") + body.count(b"{") + body.count(b"[") > _JSON_VALUES_LIMIT:
        raise AgentFailure("The sandbox sent a text with too many values.")
    try:
        value = json.loads(body, parse_int=_whole_number)
    except (ValueError, RecursionError, MemoryError) as error:
        raise AgentFailure("The sandbox sent a text that cannot be read.") from error
    if not isinstance(value, dict):
        raise AgentFailure("The sandbox sent a text that cannot be read.")
    return cast("dict[str, Any]", value)


def _whole_number(digits: str) -> int:
    if len(digits) > _JSON_DIGITS_LIMIT:
        raise ValueError("too many digits")
    return int(digits)


def json_object_or_empty(body: bytes) -> dict[str, Any]:
    """As `json_object`, but return an empty object if `body` is none. For optional details of an error."""
    try:
        return json_object(body)
    except AgentFailure:
        return {}


DEFAULT_FIELD_LIMIT: Final = 256
"""More fields than any response has that is not a list."""


def decode_message(kind: type[M], body: bytes, *, field_limit: int = DEFAULT_FIELD_LIMIT) -> M:
    """Decode `body` as a message of this type. It takes about 10 µs for each field.

    Raises:
        AgentFailure: it is not such a message, or has more than `field_limit` fields.
    """
    try:
        check_fields(kind, body, field_limit)
        return kind.from_binary(body)
    except Exception as error:  # the decoder's errors have no common base class
        raise AgentFailure("The sandbox sent a message that cannot be read.") from error
