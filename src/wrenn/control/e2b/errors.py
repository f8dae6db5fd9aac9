"""Error responses in the format of e2b: `{"code": <HTTP status>, "message": …}`.

Its clients choose the exception by the status or by `code`, some by the one and some by the other, so the two are always the same.
`error_code` is the stable name that the platform's own API calls `code`.
"""

from __future__ import annotations

from typing import Any, Final

from fastapi.responses import JSONResponse
from pydantic import BaseModel, Field

from wrenn.base.errors import RateLimited, WrennError
from wrenn.control.quotas import QuotaExceeded

_RETRY_AFTER_S: Final = 1
_TOO_MANY: Final = 429


class NotSupported(WrennError):
    """A part of the e2b API that this platform does not have."""

    code = "not_supported"
    http_status = 501


class E2bError(BaseModel):
    """The body of every error response."""

    code: int = Field(description="The HTTP status")
    message: str = Field(description="What failed and what to do, for people")
    error_code: str = Field(description="Stable name, to be acted on by programs")


def error_response(error: WrennError) -> JSONResponse:
    """Build the response for `error`. `Should-Retry` tells e2b's clients whether the same request may succeed later."""
    # Its clients know an exhausted limit of a team by this status.
    status = _TOO_MANY if isinstance(error, QuotaExceeded) else error.http_status
    body = {"code": status, "message": error.message, "error_code": error.code}
    headers = {"Should-Retry": "true" if error.retryable else "false"}
    if error.retryable:
        pause_s = error.retry_after_s if isinstance(error, RateLimited) else _RETRY_AFTER_S
        headers["Retry-After"] = str(pause_s)
    return JSONResponse(body, status, headers)


_MEANING: Final = {
    400: "The request cannot be carried out as it is; the message names the field",
    401: "No credentials, or not valid ones",
    403: "The scope of the API key does not allow it",
    404: "No such thing of this team",
    409: "It is not in a state for this, or the idempotency key is another request's",
    413: "The files are larger than the limit",
    429: "Too many requests, or a limit of the team: `Retry-After` says when to come again",
    500: "A fault of the platform; the log has it under the `X-Request-Id` of the response",
    501: "This platform does not have this",
    502: "The host or the guest could not do it",
    503: "No host has room, or a host does not answer: try again",
    504: "It did not end in time",
    507: "A disk is full",
}


def refusals(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """Return FastAPI's `responses` for these error statuses and for those that every endpoint can return."""
    return {
        status: {"model": E2bError, "description": _MEANING[status]}
        for status in sorted({400, 401, 403, 429, 500, 503, *statuses})
    }
