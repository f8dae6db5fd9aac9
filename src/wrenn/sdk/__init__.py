"""The client library: sandboxes as Python objects, synchronous and asynchronous.

`_async/` is written by hand and `_sync/` is generated from it by `tools/unasync.py`; `_http.py` alone knows the HTTP client.
"""

from __future__ import annotations

from wrenn.sdk._async.audit import audit_log as async_audit_log
from wrenn.sdk._async.commands import AsyncProcessHandle
from wrenn.sdk._async.events import events as async_events
from wrenn.sdk._async.sandbox import AsyncSandbox
from wrenn.sdk._sync.audit import audit_log
from wrenn.sdk._sync.commands import ProcessHandle
from wrenn.sdk._sync.events import events
from wrenn.sdk._sync.sandbox import Sandbox
from wrenn.sdk.errors import (
    AgentError,
    AuthenticationError,
    CapacityError,
    CommandExitError,
    ConflictError,
    ConnectionFailedError,
    DeadlineExceededError,
    ForbiddenError,
    InternalError,
    InvalidRequestError,
    InvalidStateError,
    NameReservedError,
    NameTakenError,
    NotFoundError,
    QuotaExceededError,
    RateLimitError,
    TooLargeError,
    UnavailableError,
    UnexpectedAnswerError,
    WrennError,
)
from wrenn.sdk.types import AuditEntry, CommandResult, Event, FileEntry, ProcessInfo, SandboxInfo, Template

__all__ = [
    "AgentError",
    "AsyncProcessHandle",
    "AsyncSandbox",
    "AuditEntry",
    "AuthenticationError",
    "CapacityError",
    "CommandExitError",
    "CommandResult",
    "ConflictError",
    "ConnectionFailedError",
    "DeadlineExceededError",
    "Event",
    "FileEntry",
    "ForbiddenError",
    "InternalError",
    "InvalidRequestError",
    "InvalidStateError",
    "NameReservedError",
    "NameTakenError",
    "NotFoundError",
    "ProcessHandle",
    "ProcessInfo",
    "QuotaExceededError",
    "RateLimitError",
    "Sandbox",
    "SandboxInfo",
    "Template",
    "TooLargeError",
    "UnavailableError",
    "UnexpectedAnswerError",
    "WrennError",
    "async_audit_log",
    "async_events",
    "audit_log",
    "events",
]
