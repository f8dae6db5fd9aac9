"""The endpoint of the audit log."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Depends, Query, Request
from fastapi.responses import JSONResponse, Response

from wrenn.control.audit.service import PAGE_DEFAULT, PAGE_LIMIT, AuditLog, filter_of
from wrenn.control.audit.types import AuditPage, page_json
from wrenn.control.auth import CallerOf
from wrenn.control.http import refusals

router = APIRouter(tags=["audit"])


async def _audit_log(request: Request) -> AuditLog:
    return request.app.state.audit_log


@router.get("", response_model=AuditPage, responses=refusals())
async def list_audit_logs(
    caller: CallerOf,
    audit_log: Annotated[AuditLog, Depends(_audit_log)],
    *,
    before: Annotated[
        str | None, Query(description="RFC 3339: only older entries; `next_before` of the page before")
    ] = None,
    before_id: Annotated[str | None, Query(description="`next_before_id` of the page before")] = None,
    limit: Annotated[int, Query(ge=1, description=f"More than {PAGE_LIMIT} counts as that")] = PAGE_DEFAULT,
    resource_type: Annotated[
        list[str] | None, Query(description="Only of these; may be repeated or comma-separated")
    ] = None,
    action: Annotated[
        list[str] | None, Query(description="Only of these; may be repeated or comma-separated")
    ] = None,
) -> Response:
    """What was done in the team, by whom, newest first.

    A page is final: entries that are written later are newer than all in it.
    """
    which = filter_of(before=before, before_id=before_id, resources=resource_type or (), actions=action or ())
    return JSONResponse(page_json(await audit_log.page(caller, which, limit=limit)))
