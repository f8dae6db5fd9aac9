"""What a guest sent, as values: everything that is read from a guest becomes one here, or an `AgentFailure`.

Decoders fail in more ways than they document: a deeply nested JSON text is a `RecursionError`, a number of a thousand digits a
`ValueError` of its own kind, and a text may hold lone surrogates that no encoder takes afterwards.
"""

from __future__ import annotations

import json
from typing import Any, Final, TypeVar, cast

from protobuf import Message

from wrenn.base.errors import AgentFailure
from wrenn.guest.wire import check_fields

M = TypeVar("M", bound=Message[Any])

TEXT_LIMIT: Final = 500


def guest_text(text: object) -> str:
    """A text that the guest wrote, fit to be shown: short, printable, one line, no lone surrogates."""
    if not isinstance(text, str | int | float):
        # The text of a list may be deeply nested too.
        return ""
    return "".join(c if c.isprintable() else " " for c in str(text)[:TEXT_LIMIT])


def json_object(body: bytes) -> dict[str, Any]:
    """The JSON object in `body`.

    Raises:
        AgentFailure: there is none.
    """
    try:
        value = json.loads(body)
    except (ValueError, RecursionError, MemoryError) as error:
        raise AgentFailure("The sandbox sent a text that cannot be read.") from error
    if not isinstance(value, dict):
        raise AgentFailure("The sandbox sent a text that cannot be read.")
    return cast("dict[str, Any]", value)


def json_object_or_empty(body: bytes) -> dict[str, Any]:
    """As `json_object`; an empty one where there is none, for what only adds to an error."""
    try:
        return json_object(body)
    except AgentFailure:
        return {}


FEW_FIELDS: Final = 256
"""More than any answer has that is no list."""


def message_in(kind: type[M], body: bytes, *, most_fields: int = FEW_FIELDS) -> M:
    """The message of this kind in `body`. It takes some 10 µs for each field.

    Raises:
        AgentFailure: there is none, or it has more fields.
    """
    try:
        check_fields(kind, body, most_fields)
        return kind.from_binary(body)
    except Exception as error:  # the decoder's own errors share no base class
        raise AgentFailure("The sandbox sent a message that cannot be read.") from error
