"""The exception hierarchy, organized by what the caller can do about an error.

An error has a stable `code` (part of the API: platform reference §1.1 and §13), a `retryable` flag, a public
message (what failed, for which thing, what to do) and a private `context` for the log only. Errors of
libraries are translated at the call of the library.
"""

from __future__ import annotations

from typing import ClassVar

from wrenn.base.texts import one_line


class WrennError(Exception):
    """Base class of all errors of this project.

    Attributes:
        message: text for the caller; never contains a secret, a path on the host or a stack trace.
        context: fields for the log.
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
    """The input is invalid; the same call will fail again."""

    code = "invalid_request"
    http_status = 400


class Unauthorized(WrennError):
    """The credential is missing or invalid."""

    code = "unauthorized"
    http_status = 401


class AccessLost(Unauthorized):
    """The credential was revoked, or its permissions were reduced, while the call was in progress."""

    code = "access_lost"


class Forbidden(WrennError):
    """The caller is authenticated but not allowed to do this."""

    code = "forbidden"
    http_status = 403


class NotFound(WrennError):
    """The resource does not exist or belongs to somebody else."""

    code = "not_found"
    http_status = 404


class Conflict(WrennError):
    """The call conflicts with the state of an existing resource."""

    code = "conflict"
    http_status = 409


class InvalidState(Conflict):
    """The operation is not allowed in the sandbox's current state."""

    code = "invalid_state"
    http_status = 409


class ProcessLimit(Conflict):
    """The sandbox has no process, memory or file descriptor left to start a program."""

    code = "process_limit"


class StaleGeneration(Conflict):
    """The call is for another copy of the sandbox than the host has: the sandbox was started elsewhere in between."""

    code = "stale_generation"


class TooLarge(WrennError):
    """A body, file or response exceeds its size limit."""

    code = "too_large"
    http_status = 413


class RateLimited(WrennError):
    """Too many calls, or a quota is exhausted.

    Attributes:
        retry_after_s: seconds after which a retry may succeed.
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
    """The client disconnected before the response."""

    code = "cancelled"
    http_status = 499


class InternalError(WrennError):
    """An internal error. The log has the details under the request id."""

    code = "internal_error"
    http_status = 500


class AgentFailure(WrennError):
    """The host or the guest failed to carry out the operation."""

    code = "agent_error"
    http_status = 502


class PortClosed(AgentFailure):
    """No program in the sandbox listens on the port."""

    code = "port_closed"


class FilesLost(AgentFailure):
    """The files of a sandbox are not on its host any more, or are damaged. What the store has of it can be recovered."""

    code = "files_lost"


class NoCapacity(WrennError):
    """No host has capacity; the message says which resource is exhausted."""

    code = "no_hosts_available"
    http_status = 503
    retryable = True


class Unavailable(WrennError):
    """A host, the guest or the database does not respond at the moment."""

    code = "host_unavailable"
    http_status = 503
    retryable = True


class DatabaseUnavailable(Unavailable):
    """PostgreSQL does not respond at the moment. Running sandboxes are not affected."""

    code = "database_unavailable"


class StoreUnavailable(Unavailable):
    """The object store does not respond or refuses a call. Running sandboxes are not affected."""

    code = "store_unavailable"


class DeadlineExceeded(WrennError):
    """The operation did not finish within its time limit."""

    code = "deadline_exceeded"
    http_status = 504


class StorageFull(NoCapacity):
    """The disk of the host (or of the guest) is full."""

    code = "storage_full"
    http_status = 507
    retryable = False


def error_class(code: str) -> type[WrennError]:
    """Return the error class with this `code`, or `InternalError` for an unknown code, for example one of a newer version."""
    # Breadth first, so that a class in this module comes before a subclass elsewhere with the same code.
    classes: list[type[WrennError]] = WrennError.__subclasses__()
    for cls in classes:
        if cls.code == code:
            return cls
        classes.extend(cls.__subclasses__())
    return InternalError


def cause_of(error: BaseException) -> str:
    """Return what an error of a library was, in one line for a log; its text may come from a guest.

    Not its `repr`: that of an aiohttp error includes all headers of the request, and so tokens.
    """
    return one_line(f"{type(error).__name__}: {error}")
