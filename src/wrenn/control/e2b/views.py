"""Sandboxes as JSON of the e2b API."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Final

from wrenn.base.units import MIB
from wrenn.control.e2b.sandbox_types import CLIENT_ID, ENVD_VERSION
from wrenn.control.e2b.template_names import DEFAULT_TAG
from wrenn.control.sandboxes import Sandbox, State
from wrenn.control.templates import Template
from wrenn.protocol.samples import Sample

_NO_END: Final = timedelta(days=3650)
"""`endAt` of a sandbox that has no end is so long after its start: clients require the field."""


def sandbox_json(
    sandbox: Sandbox, domain: str | None, token: str, traffic_token: str | None
) -> dict[str, object]:
    """Convert a sandbox to the JSON of `SandboxView`."""
    return _named(sandbox) | {"envdAccessToken": token, "trafficAccessToken": traffic_token, "domain": domain}


def listed_json(sandbox: Sandbox) -> dict[str, object]:
    """Convert a sandbox to the JSON of `ListedSandbox`."""
    started_at = sandbox.started_at or sandbox.created_at
    return _named(sandbox) | {
        "startedAt": _time(started_at),
        "endAt": _time(_end_of(sandbox, started_at)),
        "cpuCount": sandbox.vcpus,
        "memoryMB": sandbox.memory_mb,
        "diskSizeMB": sandbox.disk_size_mb,
        "state": "paused" if sandbox.status is State.PAUSED else "running",
        "metadata": dict(sandbox.labels),
    }


def detail_json(sandbox: Sandbox, domain: str | None, token: str | None) -> dict[str, object]:
    """Convert a sandbox to the JSON of `SandboxDetail`; without a token for callers who may only read."""
    tokens = {} if token is None else {"envdAccessToken": token}
    return (
        listed_json(sandbox)
        | tokens
        | {
            "domain": domain,
            "allowInternetAccess": sandbox.network.allow_internet,
            "network": {
                "allowOut": list(sandbox.network.allow),
                "denyOut": list(sandbox.network.deny),
                "allowPublicTraffic": sandbox.ingress.all_ports_public,
                "maskRequestHost": sandbox.ingress.request_host or None,
            },
            "lifecycle": {"autoResume": sandbox.auto_resume, "onTimeout": sandbox.on_expiry},
        }
    )


def snapshot_json(template: Template) -> dict[str, object]:
    """Convert a snapshot to the JSON of `SnapshotInfo`."""
    name = f"{template.name}:{DEFAULT_TAG}"
    return {"snapshotID": name, "names": [name]}


def metric_json(sandbox: Sandbox, sample: Sample) -> dict[str, object]:
    """Convert a sample to the JSON of `MetricView`. What the guest did not say is as its host sees it."""
    memory_b, disk_b = sandbox.memory_mb * MIB, sandbox.disk_size_mb * MIB
    used, available = sample.guest_mem_used_b, sample.guest_mem_available_b
    return {
        "timestamp": _time(datetime.fromtimestamp(sample.at_ms / 1000, UTC)),
        "timestampUnix": sample.at_ms // 1000,
        "cpuCount": sandbox.vcpus,
        "cpuUsedPct": round(sample.cpu_pct, 2),
        "memUsed": min(sample.mem_b, memory_b) if used is None else used,
        "memTotal": memory_b if used is None or available is None else used + available,
        "memCache": 0,
        "diskUsed": (sample.disk_b or 0) if sample.guest_disk_used_b is None else sample.guest_disk_used_b,
        "diskTotal": sample.guest_disk_total_b or disk_b,
    }


def _named(sandbox: Sandbox) -> dict[str, object]:
    return {
        "templateID": sandbox.template,
        "alias": sandbox.template,
        "sandboxID": sandbox.sandbox_id.without_prefix,
        "clientID": CLIENT_ID,
        "envdVersion": ENVD_VERSION,
    }


def _end_of(sandbox: Sandbox, started_at: datetime) -> datetime:
    if sandbox.status is State.PAUSED:
        # A paused sandbox has its next end when it is resumed; e2b shows when it was paused.
        return sandbox.paused_at or sandbox.last_updated
    return sandbox.expires_at or started_at + _NO_END


def _time(moment: datetime) -> str:
    return moment.astimezone(UTC).isoformat()
