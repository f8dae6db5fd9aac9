"""What admins of the platform see: load and usage of hosts, creates by minutes, failures."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from sqlalchemy import text

from wrenn.base.errors import DatabaseUnavailable, Unavailable
from wrenn.control.db import Database
from wrenn.control.metrics import create_counts
from wrenn.control.metrics.create_counts import CreateCounts
from wrenn.testing.agent_host import AgentHost, agent_host

from .conftest import DEADLINE_S, Platform, refused
from .people import Person, make_admin, sign_up


@pytest.fixture
async def host(tmp_path: Path) -> AsyncIterator[AgentHost]:
    """Samples twenty times a second."""
    async with agent_host(tmp_path / "agent", WRENN_SAMPLE_INTERVAL_S="0.05") as host:
        yield host


async def admin_of(platform: Platform) -> Person:
    admin = await sign_up(platform.url)
    await make_admin(str(platform.settings.database_url), admin)
    return admin


async def test_hosts_show_what_they_have_what_is_promised_and_what_is_used(platform: Platform):
    admin = await admin_of(platform)
    await platform.create(vcpus=2, memory_mb=300)
    paused = await platform.create(vcpus=1, memory_mb=200)
    assert (await platform.api.post(f"{paused}/pause")).status_code == 200
    async with asyncio.timeout(DEADLINE_S):
        while True:
            (found,) = (await admin.get("/v1/admin/hosts/metrics")).json()["hosts"]
            if found["usage"]["sandboxes"] == 1:
                break
            await asyncio.sleep(0.05)
    assert (found["running_count"], found["paused_count"]) == (1, 1)
    assert (found["vcpus_reserved"], found["memory_mb_reserved"]) == (2, 300)
    assert found["cpu_cores"] > 0
    assert 0 < found["memory_available_mb"] <= found["memory_mb"]
    assert found["usage"]["mem_bytes"] > 0
    assert 0 <= found["usage"]["cpu_cores"] <= 2
    platform.host.switches.fail["get_newest_samples"] = Unavailable("gone")
    (found,) = (await admin.get("/v1/admin/hosts/metrics")).json()["hosts"]
    assert "usage" not in found
    refused(await platform.api.get("/v1/admin/hosts/metrics"), 401, "unauthorized")


async def test_creates_are_counted_with_their_phases_and_failures_by_code(platform: Platform):
    admin = await admin_of(platform)
    await platform.create()
    await platform.create()
    refused(await platform.api.post("/v1/sandboxes", json={"template": "missing"}), 404, "not_found")
    platform.host.switches.fail["ensure_sandbox"] = Unavailable("gone")
    failed = await platform.api.post("/v1/sandboxes", json={})
    code = failed.json()["error"]["code"]
    await platform.control.create_counts.write()
    await platform.control.create_counts.write()
    found = (await admin.get("/v1/admin/metrics?range=1h")).json()
    assert sum(found["creates"]["created"]) == 2
    assert sum(found["creates"]["failed"]) == 2
    assert {(each["code"], each["count"]) for each in found["failures"]} == {("not_found", 1), (code, 1)}
    assert max(found["creates"]["slowest_ms"]) >= max(found["creates"]["start_ms"]) > 0
    assert all(label.endswith("00+00:00") for label in found["creates"]["labels"])
    assert found["current"]["running_count"] == 2
    refused(await admin.get("/v1/admin/metrics?range=x"), 400, "invalid_request")


async def test_counts_of_replicas_add_up_and_outlive_an_outage_of_the_database(
    database: Database, monkeypatch: pytest.MonkeyPatch
):
    phases: list[str] = []
    counts = [CreateCounts(database, observe=lambda phase, _: phases.append(phase)) for _ in range(2)]
    for each in counts:
        each.created(place_s=0.01, start_s=0.2)
        each.failed("no_capacity")
    assert phases == ["place", "start"] * 2

    async def unavailable(*_: object) -> None:
        raise DatabaseUnavailable("no answer")

    with monkeypatch.context() as patched:
        patched.setattr(create_counts.platform_store, "add_creates", unavailable)
        with pytest.raises(DatabaseUnavailable):
            await counts[0].write()
    for each in counts:
        await each.write()
    found = await database.execute(
        text("SELECT outcome, sum(count) AS n, sum(start_ms) AS ms FROM create_minutes GROUP BY outcome")
    )
    assert {(row.outcome, row.n, row.ms) for row in found} == {("running", 2, 400), ("no_capacity", 2, 0)}
