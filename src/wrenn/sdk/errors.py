"""The SDK's errors: one tree, divided by what the caller can do. Nothing else is raised for a call that fails.

The class follows the `code` of the platform's answer, or its HTTP status where the code is unknown.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

if TYPE_CHECKING:
    from wrenn.sdk.types import CommandResult


class WrennError(Exception):
    """Base of all errors of the SDK.

    Attributes:
        message: what failed and what to do, as the platform said it.
        code: stable name of the error, e.g. `not_found`.
        status: HTTP status, or None when no answer came.
        request_id: names the request in the platform's log, where the platform gave one.
        earlier_attempt_sent: an earlier attempt of the same call had no clear answer, so it may have been carried out.
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
    """The input is wrong; the same call will fail again."""

    CODES = ("invalid_request",)


class AuthenticationError(WrennError):
    """No API key, or one that the platform does not know."""

    CODES = ("unauthorized",)


class ForbiddenError(WrennError):
    """The key is known and may not do this."""

    CODES = ("forbidden",)


class NotFoundError(WrennError):
    """No such sandbox, file, process or template, or it is another team's."""

    CODES = ("not_found",)


class ConflictError(WrennError):
    """The call does not fit what already exists."""

    CODES = ("conflict",)


class InvalidStateError(ConflictError):
    """The sandbox is not in a state in which this can be done: it is paused, runs already, or has ended."""

    CODES = ("invalid_state",)


class ProcessLimitError(ConflictError):
    """The sandbox has no process, memory or file descriptor left to start a program: end some, or use a larger sandbox."""

    CODES = ("process_limit",)


class QuotaExceededError(ConflictError):
    """The team may not have more of this: the message says of what, and how much too many it would be."""

    CODES = ("quota_exceeded",)


class NameTakenError(ConflictError):
    """Another template has this name: choose another one, or replace it with `overwrite=True`."""

    CODES = ("template_name_taken",)


class NameReservedError(ConflictError):
    """The name belongs to the platform: choose another one."""

    CODES = ("name_reserved",)


class TooLargeError(WrennError):
    """A body or file is above its limit."""

    CODES = ("too_large",)


class RateLimitError(WrennError):
    """Too many calls in a time: wait, then try again."""

    CODES = ("rate_limited",)


class InternalError(WrennError):
    """A fault of the platform; its log has the reason under `request_id`."""

    CODES = ("internal_error",)


class AgentError(WrennError):
    """The host or the sandbox's guest could not do it."""

    CODES = ("agent_error",)


class PortClosedError(AgentError):
    """Nothing listens on this port in the sandbox."""

    CODES = ("port_closed",)


class CapacityError(WrennError):
    """No room on the hosts (remove sandboxes or add a host), or a full disk: the message says whose."""

    CODES = ("no_hosts_available", "storage_full")


class UnavailableError(WrennError):
    """A host or the database does not answer now: try again later."""

    CODES = ("host_unavailable",)


class DeadlineExceededError(WrennError):
    """The command or the call did not end within its time limit."""

    CODES = ("deadline_exceeded",)


class CommandTimeoutError(DeadlineExceededError):
    """A command was killed at its time limit. `result` has what it wrote until then."""

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

    `request_sent` is False when it is certain that the platform never saw the request.
    """

    CODES = ("connection_failed",)

    def __init__(self, message: str, *, request_sent: bool) -> None:
        super().__init__(message)
        self.request_sent = request_sent


class UnexpectedAnswerError(WrennError):
    """The answer is not what this version of the SDK understands: a proxy in between, or a wrong base URL."""

    CODES = ("unexpected_answer",)


def ending_of(result: CommandResult) -> str:
    """What ended a command, in words."""
    code = f"exit code {result.exit_code}"
    if result.out_of_memory:
        return f"ran out of memory ({code})"
    if result.signal:
        return f"was ended by {result.signal_name or f'signal {result.signal}'} ({code})"
    return f"ended with {code}"


class CommandExitError(WrennError):
    """`commands.run(…, check=True)` and the command ended with another exit code than 0. `result` has its output."""

    CODES = ("command_exit",)

    def __init__(self, result: CommandResult) -> None:
        last = result.stderr.strip().rpartition("\n")[2]
        super().__init__(f"The command {ending_of(result)}" + (f": {last}" if last else "."))
        self.result = result


_GIT_LINES = 8
_GIT_LINE_LIMIT = 500


class GitError(CommandExitError):
    """A git command failed; the message has the last lines that it wrote. `result` has its output."""

    CODES = ("git",)

    def __init__(self, result: CommandResult) -> None:
        super().__init__(result)
        # Some refusals are on standard output: "nothing to commit".
        said = result.stderr.strip() or result.stdout.strip()
        lines = [line.rstrip()[:_GIT_LINE_LIMIT] for line in said.splitlines() if line.strip()]
        causes = [line for line in lines if not line.startswith("hint:")] or lines
        if causes:
            last = "\n".join(causes[-_GIT_LINES:])
            self.message = f"git ended with exit code {result.exit_code}:\n{last}"
            self.args = (self.message,)


class GitAuthenticationError(GitError):
    """A git server wants other credentials than it was given, or any."""

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
    """The error that the platform told within a stream."""
    return _BY_CODE.get(code or "", UnexpectedAnswerError)(message, code=code)


def error_for(status: int, code: str | None, message: str, request_id: str | None) -> WrennError:
    """The error that stands for an answer of the platform."""
    kind = _BY_CODE.get(code or "") or _BY_STATUS.get(status, UnexpectedAnswerError)
    return kind(message, code=code, status=status, request_id=request_id)
