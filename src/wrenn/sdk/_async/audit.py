"""The team's audit log."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Iterable
from datetime import UTC, datetime

from wrenn.sdk._async.api import AsyncApi
from wrenn.sdk._parse import Fields, json_of
from wrenn.sdk.settings import client_settings
from wrenn.sdk.types import AuditEntry

_PAGE = 200


async def audit_log(
    *,
    resource_types: Iterable[str] = (),
    actions: Iterable[str] = (),
    search: str | None = None,
    since: datetime | None = None,
    limit: int | None = None,
    api_key: str | None = None,
    base_url: str | None = None,
) -> AsyncGenerator[AuditEntry]:
    """Iterate over the team's audit log, newest first: all entries, or up to `limit`.

    `search`: words that must all be in who did it, what, to what, or its details. `since`: only entries of this time and newer
    ones. Pages are fetched while the iterator advances. Entries written meanwhile are not included.
    """
    params = {"resource_type": ",".join(resource_types), "action": ",".join(actions)}
    params |= {"q": search or "", "since": since.astimezone(UTC).isoformat() if since else ""}
    cursor: dict[str, str] = {}
    left = limit
    api = AsyncApi(client_settings(api_key=api_key, base_url=base_url))
    try:
        while left is None or left > 0:
            count = _PAGE if left is None else min(_PAGE, left)
            wanted = params | cursor | {"limit": str(count)}
            body = await api.call(
                "GET",
                "/v1/audit-logs",
                params={name: text for name, text in wanted.items() if text},
                repeatable=True,
            )
            page = Fields("page of the audit log", json_of(body))
            entries = [AuditEntry.parse(fields) for fields in page.objects("items", "audit entry")]
            for entry in entries:
                yield entry
            # A page of a search may have few entries, or none, and not be the last one.
            if not page.optional_text("next_before") or (not search and len(entries) < count):
                return
            left = None if left is None else left - len(entries)
            cursor = {"before": page.text("next_before"), "before_id": page.text("next_before_id")}
    finally:
        await api.close()
