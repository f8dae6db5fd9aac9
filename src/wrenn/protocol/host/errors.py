"""Converts errors of `wrenn.base.errors` to Connect errors and back (table in docs/design/host-api.md)."""

from __future__ import annotations

from typing import Final

from connectrpc.code import Code

from wrenn.base import errors as e

ERROR_CODE_HEADER: Final = "wrenn-error-code"
ERROR_TEXT_HEADER: Final = "wrenn-error-text"
"""The message, percent-encoded: for rejected port requests, whose body the client may not see."""


class MethodUnknown(e.AgentFailure):
    """The agent is of a version that does not have this call."""


_CODES: Final[list[tuple[type[e.WrennError], Code]]] = [
    (e.InvalidState, Code.FAILED_PRECONDITION),
    (e.Conflict, Code.ALREADY_EXISTS),
    (e.InvalidRequest, Code.INVALID_ARGUMENT),
    (e.TooLarge, Code.INVALID_ARGUMENT),
    (e.NotFound, Code.NOT_FOUND),
    (e.Forbidden, Code.PERMISSION_DENIED),
    (e.NoCapacity, Code.RESOURCE_EXHAUSTED),
    (e.Unavailable, Code.UNAVAILABLE),
    (e.DeadlineExceeded, Code.DEADLINE_EXCEEDED),
    (e.Cancelled, Code.CANCELED),
    (e.AgentFailure, Code.UNKNOWN),
]
_CLASSES: Final[dict[str, type[e.WrennError]]] = {
    Code.FAILED_PRECONDITION.value: e.InvalidState,
    Code.ALREADY_EXISTS.value: e.Conflict,
    Code.INVALID_ARGUMENT.value: e.InvalidRequest,
    Code.NOT_FOUND.value: e.NotFound,
    Code.PERMISSION_DENIED.value: e.Forbidden,
    Code.RESOURCE_EXHAUSTED.value: e.NoCapacity,
    Code.UNAVAILABLE.value: e.Unavailable,
    Code.DEADLINE_EXCEEDED.value: e.DeadlineExceeded,
    Code.CANCELED.value: e.Cancelled,
    Code.UNIMPLEMENTED.value: MethodUnknown,
}


def connect_code(error: e.WrennError) -> Code:
    """Return the Connect code for `error`."""
    return next((code for cls, code in _CODES if isinstance(error, cls)), Code.INTERNAL)


def error_of(code: str, message: str, *, wrenn_code: str) -> e.WrennError:
    """Return the error of a failed call: by the value of `ERROR_CODE_HEADER` if the response has it, else by its Connect code."""
    if wrenn_code:
        return e.error_class(wrenn_code)(message)
    return _CLASSES.get(code, e.AgentFailure)(message)
