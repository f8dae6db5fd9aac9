"""The client library: sandboxes as Python objects, synchronous and asynchronous.

`_async/` is written by hand and `_sync/` is generated from it by `tools/unasync.py`; `_http.py` alone knows the HTTP client.
"""

from __future__ import annotations

from wrenn.sdk._async.audit import audit_log as async_audit_log
from wrenn.sdk._async.builds import AsyncTemplate
from wrenn.sdk._async.commands import AsyncProcessHandle
from wrenn.sdk._async.events import events as async_events
from wrenn.sdk._async.sandbox import AsyncSandbox
from wrenn.sdk._async.streams import AsyncProcessStream, AsyncTerminal
from wrenn.sdk._async.watching import AsyncWatch
from wrenn.sdk._sync.audit import audit_log
from wrenn.sdk._sync.builds import Template
from wrenn.sdk._sync.commands import ProcessHandle
from wrenn.sdk._sync.events import events
from wrenn.sdk._sync.sandbox import Sandbox
from wrenn.sdk._sync.streams import ProcessStream, Terminal
from wrenn.sdk._sync.watching import Watch
from wrenn.sdk.errors import (
    AgentError,
    AuthenticationError,
    BuildFailedError,
    CapacityError,
    CommandExitError,
    CommandTimeoutError,
    ConflictError,
    ConnectionFailedError,
    DeadlineExceededError,
    ForbiddenError,
    GitAuthenticationError,
    GitError,
    InternalError,
    InvalidRequestError,
    InvalidStateError,
    NameReservedError,
    NameTakenError,
    NotFoundError,
    PortClosedError,
    ProcessLimitError,
    QuotaExceededError,
    RateLimitError,
    TooLargeError,
    UnavailableError,
    UnexpectedAnswerError,
    WrennError,
)
from wrenn.sdk.types import (
    AuditEntry,
    Build,
    BuildEvent,
    BuildStep,
    CodeContext,
    CodeError,
    CodeExecution,
    CodeResult,
    CommandResult,
    Creator,
    DownloadLink,
    Event,
    FileEntry,
    FileEvent,
    GitStatus,
    GuestProcess,
    ListeningPort,
    MetricPoint,
    NetworkPolicy,
    Output,
    ProcessInfo,
    SandboxInfo,
    TemplateInfo,
)

__all__ = [
    "AgentError",
    "AsyncProcessHandle",
    "AsyncProcessStream",
    "AsyncSandbox",
    "AsyncTemplate",
    "AsyncTerminal",
    "AsyncWatch",
    "AuditEntry",
    "AuthenticationError",
    "Build",
    "BuildEvent",
    "BuildFailedError",
    "BuildStep",
    "CapacityError",
    "CodeContext",
    "CodeError",
    "CodeExecution",
    "CodeResult",
    "CommandExitError",
    "CommandResult",
    "CommandTimeoutError",
    "ConflictError",
    "ConnectionFailedError",
    "Creator",
    "DeadlineExceededError",
    "DownloadLink",
    "Event",
    "FileEntry",
    "FileEvent",
    "ForbiddenError",
    "GitAuthenticationError",
    "GitError",
    "GitStatus",
    "GuestProcess",
    "InternalError",
    "InvalidRequestError",
    "InvalidStateError",
    "ListeningPort",
    "MetricPoint",
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
    "TemplateInfo",
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
