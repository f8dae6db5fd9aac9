"""The SDK's exception hierarchy, organized by what the caller can do. A failed call raises nothing else.

The class depends on the `code` in the platform's response, or on the HTTP status if the code is unknown.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

if TYPE_CHECKING:
    from wrenn.sdk.types import Build, CommandResult


class WrennError(Exception):
    """Base class of all errors of the SDK.

    Attributes:
        message: the platform's description of what failed and what to do.
        code: stable name of the error, e.g. `not_found`.
        status: HTTP status, or None if there was no response.
        request_id: identifies the request in the platform's log, if the platform sent one.
        earlier_attempt_sent: the outcome of an earlier attempt of the same call is unknown, so it may have
            been carried out.
    """

    CODES: ClassVar[tuple[str, ...]] = ("error",)

    def __init__(
        self,
        message: str,
        *,
        code: str | None = None,
        status: int | None = None,
        request_id: str | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.code = code or self.CODES[0]
        self.status = status
        self.request_id = request_id
        self.earlier_attempt_sent = False


class InvalidRequestError(WrennError):
    """The input is invalid; the same call will fail again."""

    CODES = ("invalid_request",)


class AuthenticationError(WrennError):
    """The API key is missing or unknown to the platform."""

    CODES = ("unauthorized", "access_lost")


class ForbiddenError(WrennError):
    """The key is valid but not allowed to do this."""

    CODES = ("forbidden",)


class NotFoundError(WrennError):
    """No such sandbox, file, process or template, or it belongs to another team."""

    CODES = ("not_found",)


class ConflictError(WrennError):
    """The call conflicts with the state of an existing resource."""

    CODES = ("conflict",)


class InvalidStateError(ConflictError):
    """The operation is not allowed in the sandbox's current state: for example paused, already running, or ended."""

    CODES = ("invalid_state",)


class ProcessLimitError(ConflictError):
    """The sandbox has no process, memory or file descriptor left to start a program: end some, or use a larger sandbox."""

    CODES = ("process_limit",)


class QuotaExceededError(ConflictError):
    """A quota of the team is exhausted: the message says which one, and by how much it would be exceeded."""

    CODES = ("quota_exceeded",)


class NameTakenError(ConflictError):
    """A template with this name exists: choose another name, or replace it with `overwrite=True`."""

    CODES = ("template_name_taken",)


class NameReservedError(ConflictError):
    """The name is reserved for the platform: choose another one."""

    CODES = ("name_reserved",)


class TooLargeError(WrennError):
    """A body or file exceeds its size limit."""

    CODES = ("too_large",)


class RateLimitError(WrennError):
    """Too many calls: wait before you retry."""

    CODES = ("rate_limited",)


class InternalError(WrennError):
    """An internal error of the platform; its log has the details under `request_id`."""

    CODES = ("internal_error",)


class AgentError(WrennError):
    """The host or the sandbox's guest failed to carry out the operation."""

    CODES = ("agent_error", "files_lost")


class PortClosedError(AgentError):
    """No program in the sandbox listens on this port."""

    CODES = ("port_closed",)


class CapacityError(WrennError):
    """The hosts have no capacity (remove sandboxes or add a host), or a disk is full: the message says which."""

    CODES = ("no_hosts_available", "storage_full")


class UnavailableError(WrennError):
    """A host or the database does not respond at the moment, or the sandbox's host is being drained: retry later."""

    CODES = ("host_unavailable", "host_draining")


class DeadlineExceededError(WrennError):
    """The command or the call did not finish within its time limit."""

    CODES = ("deadline_exceeded",)


class CommandTimeoutError(DeadlineExceededError):
    """A command was killed at its time limit. `result` has its output until then."""

    def __init__(
        self,
        message: str,
        *,
        result: CommandResult,
        status: int | None = None,
        request_id: str | None = None,
    ) -> None:
        super().__init__(message, status=status, request_id=request_id)
        self.result = result


class ConnectionFailedError(WrennError):
    """The platform could not be reached, or the connection broke.

    `request_sent` is False only if it is certain that the platform never received the request.
    """

    CODES = ("connection_failed",)

    def __init__(self, message: str, *, request_sent: bool) -> None:
        super().__init__(message)
        self.request_sent = request_sent


class UnexpectedAnswerError(WrennError):
    """This version of the SDK does not understand the response: the cause may be a proxy in between, or a wrong base URL."""

    CODES = ("unexpected_answer",)


def ending_of(result: CommandResult) -> str:
    """Describe how a command ended."""
    code = f"exit code {result.exit_code}"
    if result.out_of_memory:
        return f"ran out of memory ({code})"
    if result.signal:
        return f"was ended by {result.signal_name or f'signal {result.signal}'} ({code})"
    return f"ended with {code}"


class BuildFailedError(WrennError):
    """A build of a template failed or was cancelled.

    Attributes:
        build: its final state.
    """

    CODES = ("build_failed",)

    def __init__(self, build: Build) -> None:
        super().__init__(
            f"The build {build.id} of {build.template} {build.status}: {build.error or 'no reason is known'}"
        )
        self.build = build


class CommandExitError(WrennError):
    """A command ended with a non-zero exit code in `commands.run(…, check=True)`. `result` has its output."""

    CODES = ("command_exit",)

    def __init__(self, result: CommandResult) -> None:
        last = result.stderr.strip().rpartition("\n")[2]
        super().__init__(f"The command {ending_of(result)}" + (f": {last}" if last else "."))
        self.result = result


_GIT_LINES = 8
_GIT_LINE_LIMIT = 500


class GitError(CommandExitError):
    """A git command failed; the message has the last lines of its output. `result` has all of it."""

    CODES = ("git",)

    def __init__(self, result: CommandResult) -> None:
        super().__init__(result)
        # git writes some errors to standard output, such as "nothing to commit".
        said = result.stderr.strip() or result.stdout.strip()
        lines = [line.rstrip()[:_GIT_LINE_LIMIT] for line in said.splitlines() if line.strip()]
        causes = [line for line in lines if not line.startswith("hint:")] or lines
        if causes:
            last = "\n".join(causes[-_GIT_LINES:])
            self.message = f"git ended with exit code {result.exit_code}:\n{last}"
            self.args = (self.message,)


class GitAuthenticationError(GitError):
    """A git server requires credentials, or rejected those that were given."""

    CODES = ("git_authentication",)


_ANSWERED: tuple[type[WrennError], ...] = (
    InvalidRequestError,
    AuthenticationError,
    ForbiddenError,
    NotFoundError,
    ConflictError,
    InvalidStateError,
    ProcessLimitError,
    QuotaExceededError,
    NameTakenError,
    NameReservedError,
    TooLargeError,
    RateLimitError,
    InternalError,
    AgentError,
    PortClosedError,
    CapacityError,
    UnavailableError,
    DeadlineExceededError,
)
_BY_CODE: dict[str, type[WrennError]] = {code: kind for kind in _ANSWERED for code in kind.CODES}
_BY_STATUS: dict[int, type[WrennError]] = {
    400: InvalidRequestError,
    401: AuthenticationError,
    403: ForbiddenError,
    404: NotFoundError,
    409: ConflictError,
    413: TooLargeError,
    429: RateLimitError,
    500: InternalError,
    502: AgentError,
    503: UnavailableError,
    504: DeadlineExceededError,
    507: CapacityError,
}


def error_of(code: str | None, message: str) -> WrennError:
    """Return the error that the platform reported within a stream."""
    return _BY_CODE.get(code or "", UnexpectedAnswerError)(message, code=code)


def error_for(status: int, code: str | None, message: str, request_id: str | None) -> WrennError:
    """Return the error for a response of the platform."""
    kind = _BY_CODE.get(code or "") or _BY_STATUS.get(status, UnexpectedAnswerError)
    return kind(message, code=code, status=status, request_id=request_id)
