"""Exit codes, and error messages on standard error."""

from __future__ import annotations

import sys
from enum import IntEnum

from wrenn.base import errors as base
from wrenn.cli.output import printable_lines
from wrenn.sdk import errors as sdk


class Exit(IntEnum):
    """Exit codes of `wrenn`. `wrenn exec` exits with the code of the command that it ran."""

    OK = 0
    ERROR = 1
    USAGE = 2
    NOT_FOUND = 3
    NOT_ALLOWED = 4
    UNAVAILABLE = 5
    TIMEOUT = 124
    INTERRUPTED = 130


_BY_ERROR: tuple[tuple[tuple[type[Exception], ...], Exit], ...] = (
    ((sdk.InvalidRequestError, base.InvalidRequest), Exit.USAGE),
    ((sdk.NotFoundError, base.NotFound), Exit.NOT_FOUND),
    ((sdk.AuthenticationError, sdk.ForbiddenError, base.Unauthorized, base.Forbidden), Exit.NOT_ALLOWED),
    ((sdk.ConnectionFailedError, sdk.UnavailableError, sdk.CapacityError), Exit.UNAVAILABLE),
    ((base.Unavailable, base.NoCapacity), Exit.UNAVAILABLE),
    ((sdk.DeadlineExceededError, base.DeadlineExceeded), Exit.TIMEOUT),
)


def exit_code(error: Exception) -> Exit:
    """Return the exit code for `error`."""
    return next((code for kinds, code in _BY_ERROR if isinstance(error, kinds)), Exit.ERROR)


def print_error(error: Exception) -> None:
    """Print what failed, and what to do, to standard error."""
    message = str(error) or type(error).__name__
    if isinstance(error, sdk.AuthenticationError) and error.status is None:
        message = (
            "No API key: run `wrenn login`, or `wrenn up` (as root), or set WRENN_API_KEY and WRENN_BASE_URL."
        )
    if isinstance(error, sdk.WrennError) and error.request_id:
        message += f" (request {error.request_id})"
    sys.stderr.write(f"wrenn: {printable_lines(message)}\n")
