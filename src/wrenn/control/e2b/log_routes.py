"""Endpoints of the e2b API for logs of sandboxes. Each parses, makes one call, answers."""

from __future__ import annotations

from typing import Annotated, Any, Final, Literal

from fastapi import APIRouter, Query
from fastapi.responses import JSONResponse, Response

from wrenn.control.auth import CredentialOf
from wrenn.control.e2b.errors import refusals
from wrenn.control.e2b.logs import E2bLogs, LogLines
from wrenn.control.e2b.sandbox_types import SandboxLogs, SandboxLogsV2
from wrenn.control.http import service, wire_time

router = APIRouter(tags=["logs"])
LogsOf = Annotated[E2bLogs, service(E2bLogs)]
_LIMIT: Final = 1000
_LATEST_MS: Final = 2**50
_Moment = Annotated[int | None, Query(ge=0, le=_LATEST_MS, description="Unix time in milliseconds")]
_Limit = Annotated[int, Query(ge=0, le=_LIMIT)]


@router.get("/sandboxes/{sandbox_id}/logs", response_model=SandboxLogs, responses=refusals(404, 502))
async def get_sandbox_logs(
    sandbox_id: str,
    credential: CredentialOf,
    logs: LogsOf,
    start: _Moment = None,
    limit: _Limit = _LIMIT,
) -> Response:
    """The end of the console of a running sandbox; all lines have the time of its start."""
    found = await logs.read(credential, sandbox_id)
    entries = _entries(found, since_ms=start)[:limit]
    lines = [{"timestamp": entry["timestamp"], "line": entry["message"]} for entry in entries]
    return JSONResponse({"logs": lines, "logEntries": entries})


@router.get("/v2/sandboxes/{sandbox_id}/logs", response_model=SandboxLogsV2, responses=refusals(404, 502))
async def get_sandbox_logs_v2(
    sandbox_id: str,
    credential: CredentialOf,
    logs: LogsOf,
    *,
    cursor: _Moment = None,
    limit: _Limit = _LIMIT,
    direction: Literal["forward", "backward"] = "forward",
    level: Literal["debug", "info", "warn", "error"] = "debug",
    search: Annotated[str, Query(max_length=256)] = "",
) -> Response:
    """The same by pages: `forward` from the cursor on, or `backward` from before it. All lines are of the level `info`."""
    found = await logs.read(credential, sandbox_id)
    if level in ("warn", "error"):
        entries: list[dict[str, Any]] = []
    elif direction == "forward":
        entries = _entries(found, since_ms=cursor, search=search)[:limit]
    else:
        entries = _entries(found, until_ms=cursor, search=search)[::-1][:limit]
    return JSONResponse({"logs": entries})


def _entries(
    found: LogLines, *, since_ms: int | None = None, until_ms: int | None = None, search: str = ""
) -> list[dict[str, Any]]:
    at_ms = found.at.timestamp() * 1000
    if (since_ms is not None and at_ms < since_ms) or (until_ms is not None and at_ms > until_ms):
        return []
    at = wire_time(found.at)
    return [
        {"timestamp": at, "message": line, "level": "info", "fields": {}}
        for line in found.lines
        if search in line
    ]
