"""Endpoints of metrics. Each parses, makes one call, answers."""

from __future__ import annotations

from typing import Annotated, Any, Final

from fastapi import APIRouter, Query, Request
from fastapi.responses import JSONResponse, Response

from wrenn.base.ids import SandboxId
from wrenn.control.auth import CallerOf, CredentialOf, HostTokenOf
from wrenn.control.http import EventStreamResponse, body_of, read_at_most, refusals, service
from wrenn.control.metrics.live import LiveMetrics
from wrenn.control.metrics.ranges import SampleRange
from wrenn.control.metrics.received_samples import ReceivedSamples
from wrenn.control.metrics.sandbox_metrics import SandboxMetrics
from wrenn.control.metrics.types import NewestPointsView, SandboxMetricsView, newest_json, series_json
from wrenn.protocol.api import METRICS_BODY_LIMIT_B

router = APIRouter(tags=["metrics"])
host_router = APIRouter(tags=["hosts"])

SandboxMetricsOf = Annotated[SandboxMetrics, service(SandboxMetrics)]
ReceivedSamplesOf = Annotated[ReceivedSamples, service(ReceivedSamples)]
IdsOf = Annotated[
    str | None, Query(description="Only these sandboxes, comma-separated; absent: all that run, up to 500")
]
_FRAME: Final[dict[str, Any]] = {
    "type": "object",
    "required": ["data"],
    "properties": {"event": {"type": "string"}, "data": {"type": "string"}},
}
_SAMPLES_IN: Final[dict[str, Any]] = {
    "requestBody": {
        "description": "Samples of sandboxes (docs/design/metrics.md), at most 1 MiB",
        "required": True,
        "content": {"application/json": {"schema": {"type": "object"}}},
    }
}


@router.get("/metrics", response_model=NewestPointsView, responses=refusals())
async def get_newest_metrics(caller: CallerOf, metrics: SandboxMetricsOf, ids: IdsOf = None) -> Response:
    """The newest point of each of the team's sandboxes that runs. Ids of others, and of those that do not run, are left out."""
    return JSONResponse(newest_json(await metrics.newest(caller, ids_of(ids))))


@router.get(
    "/metrics/stream",
    status_code=200,
    response_class=Response,
    responses={
        **refusals(429),
        200: {
            "description": "Server-sent events `metrics`; the data of each is JSON: `type` and `sandboxes`, as `GET /v1/sandboxes/metrics`",
            "content": {"text/event-stream": {"schema": _FRAME}},
        },
    },
)
async def stream_metrics(
    credential: CredentialOf, live: Annotated[LiveMetrics, service(LiveMetrics)], ids: IdsOf = None
) -> Response:
    """The newest point of each of the team's sandboxes that runs, every two seconds, until one side ends it.

    A client that is slow skips points. What came before is in `GET /v1/sandboxes/{id}/metrics`.
    """
    return await EventStreamResponse.opened(live.stream(credential, ids_of(ids)))


@router.get("/{sandbox_id}/metrics", response_model=SandboxMetricsView, responses=refusals(404, 502, 503))
async def get_sandbox_metrics(
    sandbox_id: str,
    credential: CredentialOf,
    metrics: SandboxMetricsOf,
    span: Annotated[
        SampleRange,
        Query(alias="range", description="How far back from now; if it does not run, from its last point"),
    ] = SampleRange.M10,
) -> Response:
    """What a sandbox used over time: CPU, memory, disk and network, as its host and as the guest itself see it.

    Points of before a pause stay for 30 days, also when the sandbox was removed meanwhile.
    """
    samples = await metrics.series(credential, sandbox_id, span)
    return JSONResponse(series_json(SandboxId.parse(sandbox_id), span, samples))


@host_router.post(
    "/{host_id}/metrics", status_code=204, responses=refusals(403, 404, 413, 429), openapi_extra=_SAMPLES_IN
)
async def host_send_metrics(
    host_id: str, request: Request, received: ReceivedSamplesOf, token: HostTokenOf
) -> Response:
    """Store samples of sandboxes that are on the host; each is stored once, however often it is sent."""
    sender = await received.sender(token, host_id)
    await received.store(sender, await read_at_most(body_of(request), METRICS_BODY_LIMIT_B))
    return Response(status_code=204)


def ids_of(text: str | None) -> list[str] | None:
    """Return the ids in a comma-separated list; None: there is no list."""
    return None if text is None else [part.strip() for part in text.split(",") if part.strip()]
