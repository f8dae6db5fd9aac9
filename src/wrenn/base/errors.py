"""One tree of errors, divided by what the caller can do about it.

An error has a stable `code` (part of the API: platform reference §1.1 and §13), a `retryable` flag, a public message
(what failed, for which thing, what to do) and an inner `context` that goes to the log only. Errors of libraries are
translated where they enter.
"""

from __future__ import annotations

from typing import ClassVar


class WrennError(Exception):
    """Base of all errors of this project.

    Attributes:
        message: text for the caller; never holds a secret, a path of the host or a stack trace.
        context: facts for the log.
        details: extra fields of the API's error object (e.g. `sandbox_ids`).
    """

    code: ClassVar[str] = "internal_error"
    http_status: ClassVar[int] = 500
    retryable: ClassVar[bool] = False

    def __init__(
        self,
        message: str,
        *,
        context: dict[str, object] | None = None,
        details: dict[str, object] | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.context: dict[str, object] = context or {}
        self.details: dict[str, object] = details or {}


class InvalidRequest(WrennError):
    """The input is wrong; the same call will fail again."""

    code = "invalid_request"
    http_status = 400


class Unauthorized(WrennError):
    """No credential, or one that is not valid."""

    code = "unauthorized"
    http_status = 401


class AccessLost(Unauthorized):
    """The credential stopped being valid, or allows less, while the call was under way."""

    code = "access_lost"


class Forbidden(WrennError):
    """The caller is known and may not do this."""

    code = "forbidden"
    http_status = 403


class NotFound(WrennError):
    """No such thing, or not the caller's."""

    code = "not_found"
    http_status = 404


class Conflict(WrennError):
    """The call does not fit what already exists."""

    code = "conflict"
    http_status = 409


class InvalidState(Conflict):
    """The sandbox is not in a state in which this can be done."""

    code = "invalid_state"
    http_status = 409


class ProcessLimit(Conflict):
    """The sandbox has no process, memory or file descriptor left to start a program."""

    code = "process_limit"


class TooLarge(WrennError):
    """A body, file or answer is above its limit."""

    code = "too_large"
    http_status = 413


class RateLimited(WrennError):
    """Too many calls, or a quota is used up.

    Attributes:
        retry_after_s: when it is worth trying again.
    """

    code = "rate_limited"
    http_status = 429
    retryable = True

    def __init__(
        self, message: str, *, retry_after_s: int = 1, context: dict[str, object] | None = None
    ) -> None:
        super().__init__(message, context=context)
        self.retry_after_s = retry_after_s


class Cancelled(WrennError):
    """The caller went away."""

    code = "cancelled"
    http_status = 499


class InternalError(WrennError):
    """A fault of ours; the log has the reason under the request id."""

    code = "internal_error"
    http_status = 500


class AgentFailure(WrennError):
    """The host or the guest could not do it."""

    code = "agent_error"
    http_status = 502


class PortClosed(AgentFailure):
    """No program in the sandbox listens on the port."""

    code = "port_closed"


class NoCapacity(WrennError):
    """No host has room; the message says what is full."""

    code = "no_hosts_available"
    http_status = 503
    retryable = True


class Unavailable(WrennError):
    """A host, the guest or the database does not answer now."""

    code = "host_unavailable"
    http_status = 503
    retryable = True


class DatabaseUnavailable(Unavailable):
    """PostgreSQL does not answer now. Running sandboxes are not disturbed."""

    code = "database_unavailable"


class DeadlineExceeded(WrennError):
    """The work did not end within its time limit."""

    code = "deadline_exceeded"
    http_status = 504


class StorageFull(NoCapacity):
    """The disk of the host (or of the guest) has no room left."""

    code = "storage_full"
    http_status = 507
    retryable = False


def error_class(code: str) -> type[WrennError]:
    """The class whose `code` this is; `InternalError` for a code of a newer version."""
    # Breadth first: a class of another module may share the code of the one here that it is sent as.
    classes: list[type[WrennError]] = WrennError.__subclasses__()
    for cls in classes:
        if cls.code == code:
            return cls
        classes.extend(cls.__subclasses__())
    return InternalError
