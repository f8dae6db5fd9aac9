"""The audit log: written in the transaction of each change, read by its team, never changed.

What is here is for writing, and depends on nothing but the database, so that every feature can use it, authentication too.
Reading is `service` and `routes`, which know callers.
"""

from wrenn.control.audit.entries import (
    PLATFORM_TEAM,
    SYSTEM,
    Actor,
    ActorKind,
    Deed,
    Facts,
    Resource,
    Scope,
    Status,
)
from wrenn.control.audit.store import actor_json, record, recorded, wire_id

__all__ = [
    "PLATFORM_TEAM",
    "SYSTEM",
    "Actor",
    "ActorKind",
    "Deed",
    "Facts",
    "Resource",
    "Scope",
    "Status",
    "actor_json",
    "record",
    "recorded",
    "wire_id",
]
