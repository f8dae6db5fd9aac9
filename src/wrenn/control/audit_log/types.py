"""Messages of the audit log (platform reference §8.2)."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Literal

from pydantic import BaseModel, Field

from wrenn.control.audit import Entry
from wrenn.control.audit_log.store import Page


class AuditEntry(BaseModel):
    """One line of the log. Optional fields are absent where they have no value."""

    id: str
    actor_type: Literal["user", "api_key", "system"]
    actor_id: str | None = None
    actor_name: str | None = None
    resource_type: str
    resource_id: str | None = None
    action: str
    scope: Literal["team", "admin"]
    status: Literal["success", "info", "warning", "error"]
    metadata: dict[str, str | int | bool] | None = None
    created_at: datetime = Field(description="To the microsecond")


class AuditPage(BaseModel):
    """Entries, newest first."""

    items: list[AuditEntry]
    next_before: datetime | None = Field(
        None, description="`before` of the next page; absent where it is certain that there is none"
    )
    next_before_id: str | None = Field(None, description="`before_id` of the next page")


def exact_time(moment: datetime) -> str:
    """Format a time as RFC 3339 in UTC, to the microsecond: a rounded cursor would skip entries."""
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def entry_json(entry: Entry) -> dict[str, object]:
    """Convert an entry to the JSON of `AuditEntry`."""
    fields: dict[str, object] = {
        "id": str(entry.entry_id),
        "actor_type": entry.actor.kind.value,
        "actor_id": entry.actor.actor_id,
        "actor_name": entry.actor.name,
        "resource_type": entry.resource,
        "resource_id": entry.resource_id,
        "action": entry.action,
        "scope": entry.scope,
        "status": entry.status,
        "metadata": dict(entry.facts),
        "created_at": exact_time(entry.created_at),
    }
    return {name: value for name, value in fields.items() if value not in ("", {})}


def page_json(page: Page) -> dict[str, object]:
    """Convert a page to the JSON of `AuditPage`."""
    body: dict[str, object] = {"items": [entry_json(entry) for entry in page.entries]}
    if page.last is not None:
        body["next_before"], body["next_before_id"] = exact_time(page.last[0]), str(page.last[1])
    return body
