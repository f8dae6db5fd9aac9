"""The endpoint of the event stream."""

from __future__ import annotations

from typing import Annotated, Any, Final

from fastapi import APIRouter, Header, Query
from fastapi.responses import Response

from wrenn.control.auth import CredentialOf
from wrenn.control.events.service import Events
from wrenn.control.events.types import kinds_of
from wrenn.control.http import EventStreamResponse, refusals, service

router = APIRouter(tags=["events"])

_FRAME: Final[dict[str, Any]] = {
    "type": "object",
    "required": ["data"],
    "properties": {"id": {"type": "string"}, "event": {"type": "string"}, "data": {"type": "string"}},
}


@router.get(
    "",
    status_code=200,
    response_class=Response,
    responses={
        **refusals(429),
        200: {
            "description": "Server-sent events; the data of each is JSON: `type`, `resource_id`, `at` and `data`",
            "content": {"text/event-stream": {"schema": _FRAME}},
        },
    },
)
async def stream_events(
    credential: CredentialOf,
    events: Annotated[Events, service(Events)],
    *,
    last_event_id: Annotated[
        str | None, Header(alias="Last-Event-ID", description="Go on behind this event")
    ] = None,
    after: Annotated[str | None, Query(description="The same, for clients that cannot set headers")] = None,
    types: Annotated[
        str | None, Query(description="Only these, comma-separated: `sandbox`, `host.up`, …")
    ] = None,
) -> Response:
    """What changes, as it changes: sandboxes, templates, hosts, the audit log, as far as the caller may see.

    The stream goes on until one side ends it. A client that comes back with `Last-Event-ID` misses nothing; after too long
    it gets the event `reset` and must look at everything again.
    """
    return await EventStreamResponse.opened(
        events.stream(credential, after=last_event_id or after or None, kinds=kinds_of(types))
    )
