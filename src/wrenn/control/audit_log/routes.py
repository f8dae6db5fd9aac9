"""The endpoints of the audit log. Each parses, makes one call, answers."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Depends, Query
from fastapi.responses import JSONResponse, Response

from wrenn.control.audit_log.service import PAGE_DEFAULT, PAGE_LIMIT, TEXT_LIMIT, AuditLog, filter_of
from wrenn.control.audit_log.store import Filter
from wrenn.control.audit_log.types import AuditPage, page_json
from wrenn.control.auth import AdminOf, CallerOf
from wrenn.control.http import refusals, service

router = APIRouter(tags=["audit"])
admin_router = APIRouter(tags=["administration"])


async def _which(
    *,
    before: Annotated[
        str | None, Query(description="RFC 3339: only older entries; `next_before` of the page before")
    ] = None,
    before_id: Annotated[str | None, Query(description="`next_before_id` of the page before")] = None,
    since: Annotated[
        str | None, Query(description="RFC 3339: only entries of this time and newer ones")
    ] = None,
    q: Annotated[
        str | None,
        Query(
            max_length=TEXT_LIMIT,
            description="Words that must all be in who did it, what, to what, or its facts; case does not matter. A page "
            "searches a part of the log: it may have few entries or none, and there are more as long as it has `next_before`",
        ),
    ] = None,
    resource_type: Annotated[
        list[str] | None, Query(description="Only of these; may be repeated or comma-separated")
    ] = None,
    action: Annotated[
        list[str] | None, Query(description="Only of these; may be repeated or comma-separated")
    ] = None,
) -> Filter:
    return filter_of(
        before=before,
        before_id=before_id,
        since=since,
        text=q,
        resources=resource_type or (),
        actions=action or (),
    )


Log = Annotated[AuditLog, service(AuditLog)]
Which = Annotated[Filter, Depends(_which)]
PageSize = Annotated[int, Query(ge=1, description=f"More than {PAGE_LIMIT} counts as that")]


@router.get("", response_model=AuditPage, responses=refusals())
async def list_audit_logs(
    caller: CallerOf, audit_log: Log, which: Which, limit: PageSize = PAGE_DEFAULT
) -> Response:
    """What was done in the team, by whom, newest first.

    A page is final: entries that are written later are newer than all in it.
    """
    return JSONResponse(page_json(await audit_log.page(caller, which, limit=limit)))


@admin_router.get("", response_model=AuditPage, responses=refusals(403))
async def list_platform_audit_logs(
    _admin: AdminOf, audit_log: Log, which: Which, limit: PageSize = PAGE_DEFAULT
) -> Response:
    """What admins of the platform did, what became of hosts and accounts, newest first; pages as of a team's log."""
    return JSONResponse(page_json(await audit_log.platform_page(which, limit=limit)))
