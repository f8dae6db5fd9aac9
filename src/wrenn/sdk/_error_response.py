"""Converts error responses to exceptions."""

from __future__ import annotations

from typing import cast

from wrenn.sdk._parse import Fields, json_of
from wrenn.sdk.errors import CommandTimeoutError, UnexpectedAnswerError, WrennError, error_for
from wrenn.sdk.types import CommandResult


def raise_for_status(status: int, body: bytes, request_id: str | None) -> None:
    """Raise the error for a response of `status`, unless it is a success."""
    if not 200 <= status < 300:
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
        code, message = None, f"The platform answered with HTTP status {status}."
    return error_for(status, code, message, request_id)
