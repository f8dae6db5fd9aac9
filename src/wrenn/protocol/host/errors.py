"""Converts errors of `wrenn.base.errors` to Connect errors and back (table in docs/design/host-api.md)."""

from __future__ import annotations

from typing import Final

from connectrpc.code import Code
from connectrpc.errors import ConnectError

from wrenn.base import errors as e

ERROR_CODE_HEADER: Final = "wrenn-error-code"
ERROR_TEXT_HEADER: Final = "wrenn-error-text"
"""The message, percent-encoded: for rejected port requests, whose body the client may not see."""

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
_CLASSES: Final[dict[Code, type[e.WrennError]]] = {
    Code.FAILED_PRECONDITION: e.InvalidState,
    Code.ALREADY_EXISTS: e.Conflict,
    Code.INVALID_ARGUMENT: e.InvalidRequest,
    Code.NOT_FOUND: e.NotFound,
    Code.PERMISSION_DENIED: e.Forbidden,
    Code.RESOURCE_EXHAUSTED: e.NoCapacity,
    Code.UNAVAILABLE: e.Unavailable,
    Code.DEADLINE_EXCEEDED: e.DeadlineExceeded,
    Code.CANCELED: e.Cancelled,
}


def connect_code(error: e.WrennError) -> Code:
    """Return the Connect code for `error`."""
    return next((code for cls, code in _CODES if isinstance(error, cls)), Code.INTERNAL)


def from_connect(error: ConnectError, *, code: str | None) -> e.WrennError:
    """Return the error behind a failed call. `code` is the value of `ERROR_CODE_HEADER` in the response, if present.

    A failure of the transport itself (no response, TLS error) has the Connect code `unavailable` and no
    header.
    """
    if code is not None:
        return e.error_class(code)(error.message)
    return _CLASSES.get(error.code, e.AgentFailure)(error.message)
