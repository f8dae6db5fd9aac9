"""Writing the audit log: an entry is made in the transaction of the change that it is about, and never changed.

This depends on nothing but the database, so that every feature can use it, authentication too. Reading it is `audit_log`.
"""

from wrenn.control.audit.entries import (
    PLATFORM_TEAM,
    SYSTEM,
    Actor,
    ActorKind,
    AuditAction,
    Entry,
    Facts,
    Resource,
    Scope,
    Status,
)
from wrenn.control.audit.store import actor_json, record, record_cte, wire_id
from wrenn.control.audit.tables import audit_logs

__all__ = [
    "PLATFORM_TEAM",
    "SYSTEM",
    "Actor",
    "ActorKind",
    "AuditAction",
    "Entry",
    "Facts",
    "Resource",
    "Scope",
    "Status",
    "actor_json",
    "audit_logs",
    "record",
    "record_cte",
    "wire_id",
]
