"""wrenn: sandboxes for AI agents and developers, in small virtual machines.

`from wrenn import Sandbox, AsyncSandbox` is the SDK; the names are loaded on first use, so that `import wrenn` is quick.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from wrenn.sdk import (
        AgentError,
        AsyncProcessHandle,
        AsyncProcessStream,
        AsyncSandbox,
        AsyncTerminal,
        AsyncWatch,
        AuditEntry,
        AuthenticationError,
        CapacityError,
        CommandExitError,
        CommandResult,
        CommandTimeoutError,
        ConflictError,
        ConnectionFailedError,
        Creator,
        DeadlineExceededError,
        Event,
        FileEntry,
        FileEvent,
        ForbiddenError,
        GitAuthenticationError,
        GitError,
        GitStatus,
        InternalError,
        InvalidRequestError,
        InvalidStateError,
        NameReservedError,
        NameTakenError,
        NetworkPolicy,
        NotFoundError,
        Output,
        PortClosedError,
        ProcessHandle,
        ProcessInfo,
        ProcessLimitError,
        ProcessStream,
        QuotaExceededError,
        RateLimitError,
        Sandbox,
        SandboxInfo,
        Template,
        Terminal,
        TooLargeError,
        UnavailableError,
        UnexpectedAnswerError,
        Watch,
        WrennError,
        async_audit_log,
        async_events,
        audit_log,
        events,
    )

__all__ = [
    "AgentError",
    "AsyncProcessHandle",
    "AsyncProcessStream",
    "AsyncSandbox",
    "AsyncTerminal",
    "AsyncWatch",
    "AuditEntry",
    "AuthenticationError",
    "CapacityError",
    "CommandExitError",
    "CommandResult",
    "CommandTimeoutError",
    "ConflictError",
    "ConnectionFailedError",
    "Creator",
    "DeadlineExceededError",
    "Event",
    "FileEntry",
    "FileEvent",
    "ForbiddenError",
    "GitAuthenticationError",
    "GitError",
    "GitStatus",
    "InternalError",
    "InvalidRequestError",
    "InvalidStateError",
    "NameReservedError",
    "NameTakenError",
    "NetworkPolicy",
    "NotFoundError",
    "Output",
    "PortClosedError",
    "ProcessHandle",
    "ProcessInfo",
    "ProcessLimitError",
    "ProcessStream",
    "QuotaExceededError",
    "RateLimitError",
    "Sandbox",
    "SandboxInfo",
    "Template",
    "Terminal",
    "TooLargeError",
    "UnavailableError",
    "UnexpectedAnswerError",
    "Watch",
    "WrennError",
    "async_audit_log",
    "async_events",
    "audit_log",
    "events",
]


def __getattr__(name: str) -> object:
    if name in __all__:
        return getattr(import_module("wrenn.sdk"), name)
    raise AttributeError(f"module 'wrenn' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
