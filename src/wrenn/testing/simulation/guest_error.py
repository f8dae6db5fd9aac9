"""Errors of a simulated guest, as the real one reports them."""

from __future__ import annotations

import json
from typing import Final

_STATUS: Final = {
    "invalid_argument": 400,
    "unauthenticated": 401,
    "permission_denied": 403,
    "not_found": 404,
    "already_exists": 409,
    "failed_precondition": 400,
    "resource_exhausted": 429,
    "internal": 500,
    "unimplemented": 501,
    "unavailable": 503,
    "deadline_exceeded": 504,
}


class GuestError(Exception):
    """A request that fails with a Connect code and a message."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.message = message

    @property
    def status(self) -> int:
        """The status of the HTTP response."""
        return _STATUS[self.code]

    def body(self) -> bytes:
        """Return the body of an error response."""
        return json.dumps({"code": self.code, "message": self.message}).encode()

    def end_of_stream(self) -> bytes:
        """Return the last message of a stream that fails."""
        return json.dumps({"error": {"code": self.code, "message": self.message}}).encode()
