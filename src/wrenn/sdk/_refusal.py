"""An answer that is not a success, as an error of ours."""

from __future__ import annotations

from typing import cast

from wrenn.sdk._parse import Fields, json_of
from wrenn.sdk.errors import CommandTimeoutError, UnexpectedAnswerError, WrennError, error_for
from wrenn.sdk.types import CommandResult


def check(status: int, body: bytes, request_id: str | None) -> None:
    """Raise what an answer of `status` stands for, unless it is a success."""
    if not 200 <= status < 300:
        raise refusal(status, body, request_id)


def refusal(status: int, body: bytes, request_id: str | None) -> WrennError:
    """What an answer of `status`, which is no success, stands for."""
    try:
        error = cast("dict[str, dict[str, object]]", json_of(body))["error"]
        code, message = str(error["code"]), str(error["message"])
        if error.get("timed_out") is True:
            result = CommandResult.parse(Fields("exec result", error))
            return CommandTimeoutError(message, result=result, status=status, request_id=request_id)
    except (UnexpectedAnswerError, KeyError, TypeError):
        code, message = None, f"The platform answered with HTTP status {status}."
    return error_for(status, code, message, request_id)
