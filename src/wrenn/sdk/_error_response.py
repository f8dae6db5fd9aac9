"""Converts error responses to exceptions."""

from __future__ import annotations

from typing import Final, cast

from wrenn.sdk._parse import Fields, json_of
from wrenn.sdk.errors import (
    CommandTimeoutError,
    InvalidRequestError,
    NotFoundError,
    UnexpectedAnswerError,
    WrennError,
    error_for,
)
from wrenn.sdk.types import CommandResult

_TEXT_LIMIT: Final = 300
_OF_SANDBOX: Final[dict[int, type[WrennError]]] = {400: InvalidRequestError, 404: NotFoundError}


def raise_for_status(
    status: int, body: bytes, request_id: str | None, *, is_from_sandbox: bool = False
) -> None:
    """Raise the error for a response of `status`, unless it is a success.

    A program in a sandbox cannot choose an error that speaks of the platform, such as a revoked API key.
    """
    if 200 <= status < 300:
        return
    if is_from_sandbox:
        kind = _OF_SANDBOX.get(status, UnexpectedAnswerError)
        message = f"The sandbox answered with HTTP status {status}{_text_of(body)}"
        raise kind(message, status=status, request_id=request_id)
    raise error_of_response(status, body, request_id)


def error_of_response(status: int, body: bytes, request_id: str | None) -> WrennError:
    """Return the error for a response of `status`, which is not a success."""
    try:
        error = cast("dict[str, dict[str, object]]", json_of(body))["error"]
        code, message = str(error["code"]), str(error["message"])
        if error.get("timed_out") is True:
            result = CommandResult.parse(Fields("exec result", error))
            return CommandTimeoutError(message, result=result, status=status, request_id=request_id)
    except (UnexpectedAnswerError, KeyError, TypeError):
        code, message = None, f"The platform answered with HTTP status {status}{_text_of(body)}"
    return error_for(status, code, message, request_id)


def _text_of(body: bytes) -> str:
    """Return what a program behind a port says in plain text, or in the `message` of JSON, as the end of a sentence."""
    text = body[:_TEXT_LIMIT].decode("utf-8", "replace").strip()
    try:
        found = json_of(body)
    except UnexpectedAnswerError:
        found = None
    if isinstance(found, dict):
        text = str(cast("dict[str, object]", found).get("message", ""))[:_TEXT_LIMIT]
    is_shown = text and text.isprintable() and not text.startswith("<")
    return f": {text}" if is_shown else "."
