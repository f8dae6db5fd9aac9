"""Metrics of sandboxes: of one over time, and the newest ones of several."""

from __future__ import annotations

from collections.abc import Iterable

from wrenn.sdk._async.api import AsyncApi, path_of
from wrenn.sdk._parse import Fields, json_of
from wrenn.sdk.types import MetricPoint, MetricsRange


async def series(api: AsyncApi, sandbox_id: str, span: MetricsRange) -> list[MetricPoint]:
    """Return the points of one sandbox in the order of time."""
    answer = await api.page(path_of(sandbox_id, "metrics"), [("range", span)])
    fields = Fields("metrics", json_of(answer[0]))
    return [MetricPoint.parse(point) for point in fields.objects("points", "point")]


async def newest(api: AsyncApi, ids: Iterable[str] | None) -> dict[str, MetricPoint]:
    """Return the newest point of each running sandbox that has one, by its id."""
    query = [] if ids is None else [("ids", ",".join(ids))]
    answer = await api.page(path_of("metrics"), query)
    found = Fields("metrics", json_of(answer[0])).objects("sandboxes", "sandbox")
    return {
        sandbox.text("sandbox_id"): MetricPoint.parse(point)
        for sandbox in found
        if (point := sandbox.optional_object("point")) is not None
    }
