"""Endpoints of the e2b API for metrics. Each parses, makes one call, answers."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query
from fastapi.responses import JSONResponse, Response

from wrenn.control.auth import CallerOf, CredentialOf
from wrenn.control.e2b.errors import refusals
from wrenn.control.e2b.metrics import E2bMetrics
from wrenn.control.e2b.sandbox_types import MetricView, SandboxesWithMetrics
from wrenn.control.e2b.views import metric_json
from wrenn.control.http import service

router = APIRouter(prefix="/sandboxes", tags=["metrics"])
MetricsOf = Annotated[E2bMetrics, service(E2bMetrics)]
_LATEST_S = 2**40
"""Unix times above are no dates."""
_Moment = Annotated[int | None, Query(ge=0, le=_LATEST_S, description="Unix time in seconds")]


@router.get("/metrics", response_model=SandboxesWithMetrics, responses=refusals())
async def get_newest_metrics(
    caller: CallerOf,
    metrics: MetricsOf,
    sandbox_ids: Annotated[
        str, Query(max_length=4096, description="Ids of sandboxes, comma-separated, at most 100")
    ],
) -> Response:
    """The newest metric of each of these sandboxes that runs and has one."""
    ids = [part.strip() for part in sandbox_ids.split(",") if part.strip()]
    found = await metrics.newest(caller, ids)
    by_id = {
        each.sandbox.sandbox_id.without_prefix: metric_json(each.sandbox, each.samples[0]) for each in found
    }
    return JSONResponse({"sandboxes": by_id})


@router.get("/{sandbox_id}/metrics", response_model=list[MetricView], responses=refusals(404, 502))
async def get_sandbox_metrics(
    sandbox_id: str,
    credential: CredentialOf,
    metrics: MetricsOf,
    start: _Moment = None,
    end: _Moment = None,
) -> Response:
    """What a sandbox used over time, in the order of time."""
    found = await metrics.series(credential, sandbox_id, start_s=start, end_s=end)
    return JSONResponse([metric_json(found.sandbox, sample) for sample in found.samples])
