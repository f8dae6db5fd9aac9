"""Error responses in the platform's format: `{"error": {"code", "message"}}`."""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import partial
from typing import Any, Final

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel, Field
from starlette.exceptions import HTTPException

from wrenn.base.errors import (
    AccessLost,
    InternalError,
    InvalidRequest,
    NotFound,
    RateLimited,
    TooLarge,
    WrennError,
)

_log = logging.getLogger(__name__)

_VALUE_ERROR: Final = "Value error, "
_NO_OBJECT: Final = "The body must be a JSON object, with the header Content-Type: application/json."


class ErrorDetail(BaseModel):
    """What went wrong."""

    code: str = Field(description="Stable name, to be acted on by programs")
    message: str = Field(description="What failed and what to do, for people")


class ErrorBody(BaseModel):
    """The body of every error response."""

    error: ErrorDetail


def error_response(error: WrennError, *, status: int = 0) -> JSONResponse:
    """Build the response for `error`, with its own status or another. Retryable errors get a `Retry-After`."""
    pause_s = error.retry_after_s if isinstance(error, RateLimited) else 1
    headers = {"Retry-After": str(pause_s)} if error.retryable else None
    body = {"error": {"code": error.code, "message": error.message, **error.details}}
    return JSONResponse(body, status or error.http_status, headers)


ErrorFormat = Callable[[WrennError], JSONResponse]
"""Builds the response for an error; `error_response` does that in the platform's own format."""


class _MethodNotAllowed(InvalidRequest):
    http_status = 405


def install(app: FastAPI, respond: ErrorFormat = error_response) -> None:
    """Make `app` answer all errors in this format."""
    app.add_exception_handler(WrennError, partial(_wrenn_error, respond))
    app.add_exception_handler(RequestValidationError, partial(_validation_error, respond))
    app.add_exception_handler(HTTPException, partial(_http_error, respond))


async def _wrenn_error(respond: ErrorFormat, _request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, WrennError), "registered for this class"
    response = respond(public_error(error))
    if isinstance(error, AccessLost):
        # An upload may be on its way, which nobody reads any more.
        response.headers["Connection"] = "close"
    return response


def public_error(error: WrennError) -> WrennError:
    """Return the error that the client may see; internal details are logged instead."""
    if isinstance(error, InternalError):
        _log.error("request failed", extra=error.context, exc_info=error)
        return InternalError("An internal error occurred; the log has it under the request id.")
    if error.http_status >= 500:
        _log.warning("request refused", extra={"code": error.code, "cause": error.message, **error.context})
    return error


async def _validation_error(respond: ErrorFormat, _request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RequestValidationError), "registered for this class"
    return respond(InvalidRequest(fault_text(error.errors()[0])))


def fault_text(fault: Any) -> str:
    """Describe one of pydantic's errors in a sentence. The first part of its location is the place in the request: body, query, path or header."""
    where = [str(part) for part in fault["loc"][1:]]
    if fault["type"] == "json_invalid":
        return "The body is not valid JSON."
    text = str(fault["msg"]).removeprefix(_VALUE_ERROR)
    if not where:
        # Either the body as a whole is wrong, or a rule between fields is broken, which names them itself.
        return f"{text}." if fault["type"] == "value_error" else _NO_OBJECT
    return f"{'.'.join(where)[:200]}: {text[:1].lower()}{text[1:]}."


async def _http_error(respond: ErrorFormat, _request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, HTTPException), "registered for this class"
    match error.status_code:
        case 413:
            return respond(TooLarge(error.detail))
        case 404:
            return respond(NotFound("There is no such path."))
        case 405:
            response = respond(_MethodNotAllowed("This path does not know this method."))
            response.headers.update(error.headers or {})
            return response
        case status if status < 500:
            return respond(InvalidRequest("The body cannot be read: it must be a JSON object in UTF-8."))
        case _:
            return respond(InternalError("An internal error occurred."))
