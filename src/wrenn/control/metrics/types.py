"""Messages of metrics."""

from __future__ import annotations

from collections.abc import Sequence

from pydantic import BaseModel, Field

from wrenn.base.ids import SandboxId
from wrenn.control.metrics.ranges import SampleRange
from wrenn.control.metrics.sandbox_metrics import NewestSample
from wrenn.protocol.samples import Sample

_MEM_PSS = "The same, with memory that is shared with other sandboxes divided among them"


class MetricPoint(BaseModel):
    """What a sandbox used at a moment, or on average since the point before. What is absent is not known."""

    timestamp_unix: int = Field(description="Unix time in seconds")
    timestamp_ms: int = Field(description="The same in milliseconds: two points may be of one second")
    cpu_pct: float = Field(description="Of all its vCPUs, 0 to 100")
    mem_bytes: int = Field(description="Resident memory of its virtual machine on the host")
    mem_pss_bytes: int | None = Field(None, description=_MEM_PSS)
    disk_bytes: int = Field(description="What it has written takes on the host's disk")
    net_in_bytes_per_s: float = Field(description="What it received")
    net_out_bytes_per_s: float = Field(description="What it sent")
    guest_mem_used_bytes: int | None = Field(None, description="By the guest's own account")
    guest_mem_available_bytes: int | None = Field(None, description="By the guest's own account")
    guest_disk_used_bytes: int | None = Field(None, description="Of its root file system")
    guest_disk_total_bytes: int | None = Field(None, description="Size of its root file system")


class SandboxMetricsView(BaseModel):
    """The points of one sandbox in the order of time: every half second, 30 seconds or five minutes, depending on the range."""

    sandbox_id: str
    range: SampleRange
    points: list[MetricPoint]


class NewestPoint(BaseModel):
    """The newest point of a sandbox that runs; absent: it has none yet, or its host does not answer."""

    sandbox_id: str
    point: MetricPoint | None = None


class NewestPointsView(BaseModel):
    """The newest points of sandboxes that run, the newest sandbox first."""

    sandboxes: list[NewestPoint]


def point_json(sample: Sample) -> dict[str, object]:
    """Convert a sample to the JSON of `MetricPoint`."""
    fields: dict[str, object] = {
        "timestamp_unix": sample.at_ms // 1000,
        "timestamp_ms": sample.at_ms,
        "cpu_pct": round(sample.cpu_pct, 2),
        "mem_bytes": sample.mem_b,
        "disk_bytes": sample.disk_b or 0,
        "net_in_bytes_per_s": round(sample.net_in_b_per_s, 1),
        "net_out_bytes_per_s": round(sample.net_out_b_per_s, 1),
    }
    sizes = {
        "mem_pss_bytes": sample.mem_pss_b,
        "guest_mem_used_bytes": sample.guest_mem_used_b,
        "guest_mem_available_bytes": sample.guest_mem_available_b,
        "guest_disk_used_bytes": sample.guest_disk_used_b,
        "guest_disk_total_bytes": sample.guest_disk_total_b,
    }
    return fields | {name: size_b for name, size_b in sizes.items() if size_b is not None}


def series_json(sandbox_id: SandboxId, span: SampleRange, samples: Sequence[Sample]) -> dict[str, object]:
    """Convert samples to the JSON of `SandboxMetricsView`."""
    points = [point_json(sample) for sample in samples]
    return {"sandbox_id": str(sandbox_id), "range": str(span), "points": points}


def newest_json(found: Sequence[NewestSample]) -> dict[str, object]:
    """Convert newest samples to the JSON of `NewestPointsView`."""
    return {"sandboxes": [newest_point_json(each) for each in found]}


def newest_point_json(newest: NewestSample) -> dict[str, object]:
    """Convert one newest sample to the JSON of `NewestPoint`."""
    point = {} if newest.sample is None else {"point": point_json(newest.sample)}
    return {"sandbox_id": str(newest.sandbox_id), **point}
