"""Metrics of sandboxes: from their host while they run, from the database afterwards, and nobody else's."""

from __future__ import annotations

import asyncio
import base64
import json
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text

from wrenn import AsyncSandbox, MetricPoint
from wrenn.base.errors import RateLimited, Unavailable
from wrenn.base.faults import arm_faults
from wrenn.base.ids import HostId, SandboxId
from wrenn.control.db import Transaction
from wrenn.control.metrics import sample_store
from wrenn.control.metrics.sample_store import SampleBatch
from wrenn.control.settings import Settings
from wrenn.protocol.samples import Sample, Tier, time_of
from wrenn.testing.agent_host import AgentHost, agent_host

from .conftest import DEADLINE_S, Platform, client, refused
from .host_agents import registered
from .people import make_admin, sign_up

CONTRACT = {"timestamp_unix", "cpu_pct", "mem_bytes", "disk_bytes"}


@pytest.fixture
async def host(tmp_path: Path) -> AsyncIterator[AgentHost]:
    """Samples twenty times a second."""
    async with agent_host(tmp_path / "agent", WRENN_SAMPLE_INTERVAL_S="0.05") as host:
        yield host


async def points(platform: Platform, path: str, span: str = "10m") -> list[dict[str, Any]]:
    answer = await platform.api.get(f"{path}/metrics", params={"range": span})
    assert answer.status_code == 200, answer.text
    body = answer.json()
    assert (body["sandbox_id"], body["range"]) == (path.rpartition("/")[2], span)
    return body["points"]


async def at_least(platform: Platform, path: str, count: int, span: str = "10m") -> list[dict[str, Any]]:
    async with asyncio.timeout(DEADLINE_S):
        while len(found := await points(platform, path, span)) < count:
            await asyncio.sleep(0.05)
    return found


async def stored(platform: Platform, path: str) -> dict[str, int]:
    """How many batches of a sandbox are stored, by tier."""
    found = await platform.control.database.execute(
        text("SELECT tier, count(*) AS n FROM sandbox_samples WHERE sandbox_id = :id GROUP BY tier"),
        {"id": SandboxId.parse(path.rpartition("/")[2]).value},
    )
    return {row.tier: row.n for row in found}


async def host_of(platform: Platform, path: str) -> HostId:
    found = await platform.control.database.execute(
        text("SELECT host_id FROM sandboxes WHERE id = :id"),
        {"id": SandboxId.parse(path.rpartition("/")[2]).value},
    )
    return HostId(found.scalar_one())


async def until_stored(platform: Platform, path: str, *tiers: str) -> None:
    async with asyncio.timeout(DEADLINE_S):
        while not set(tiers) <= set(await stored(platform, path)):
            await asyncio.sleep(0.05)


async def test_a_running_sandbox_has_points_under_the_names_of_the_contract(platform: Platform):
    path = await platform.create()
    found = await at_least(platform, path, 10)
    assert set(found[0]) >= CONTRACT
    assert all(0 <= each["cpu_pct"] <= 100 for each in found)
    assert all(isinstance(each["timestamp_unix"], int) for each in found)
    assert abs(found[-1]["timestamp_unix"] - time.time()) < 5
    times = [each["timestamp_ms"] for each in found]
    assert times == sorted(set(times))
    for span in ("5m", "1h", "2h", "6h", "12h", "24h"):
        assert await points(platform, path, span)
    # The same under the name that public clients use.
    alias = await platform.api.get(f"{path}/metrics".replace("sandboxes", "capsules"))
    assert alias.status_code == 200


async def test_bad_requests_are_refused(platform: Platform):
    path = await platform.create()
    for query in ("range=7m", "range=", "span=5m"):
        assert (await platform.api.get(f"{path}/metrics?{query}")).status_code == 400
    refused(await platform.api.get("/v1/sandboxes/nonsense/metrics"), 400, "invalid_request")
    refused(await platform.api.get(f"/v1/sandboxes/{SandboxId.new()}/metrics"), 404, "not_found")
    refused(await platform.api.get("/v1/sandboxes/metrics?ids=x"), 400, "invalid_request")
    many = ",".join(str(SandboxId.new()) for _ in range(501))
    refused(await platform.api.get(f"/v1/sandboxes/metrics?ids={many}"), 400, "invalid_request")


async def test_a_pause_loses_no_point_and_a_resume_goes_on_behind_it(platform: Platform):
    path = await platform.create()
    before = await at_least(platform, path, 10)
    assert (await platform.api.post(f"{path}/pause")).status_code == 200
    paused = await points(platform, path)
    assert [each["timestamp_ms"] for each in paused][: len(before)] == [
        each["timestamp_ms"] for each in before
    ]
    await until_stored(platform, path, "10m", "2h", "24h")
    # Of a paused sandbox the range ends with its last point, however long ago that is.
    await platform.control.database.execute(
        text("UPDATE sandbox_samples SET first_ms = first_ms - 5000000000, last_ms = last_ms - 5000000000")
    )
    assert len(await points(platform, path)) == len(paused)
    await platform.control.database.execute(
        text("UPDATE sandbox_samples SET first_ms = first_ms + 5000000000, last_ms = last_ms + 5000000000")
    )
    assert (await platform.api.post(f"{path}/resume")).status_code == 200
    after = await at_least(platform, path, len(paused) + 5)
    assert [each["timestamp_ms"] for each in after[: len(paused)]] == [
        each["timestamp_ms"] for each in paused
    ]
    assert all(0 <= each["cpu_pct"] <= 100 for each in after)


async def test_an_automatic_pause_stores_points_too(platform: Platform):
    path = await platform.create(timeout_sec=1)
    await at_least(platform, path, 5)
    platform.host.age(path.rpartition("/")[2], 100.0)
    await platform.wait_status(path, "paused")
    await until_stored(platform, path, "10m", "2h", "24h")


async def test_of_a_removed_sandbox_the_coarse_points_stay(platform: Platform):
    path = await platform.create()
    await at_least(platform, path, 5)
    assert (await platform.api.delete(path)).status_code == 204
    await until_stored(platform, path, "24h")
    assert len(await points(platform, path, "24h")) == 1
    assert await points(platform, path) == []


async def test_an_agent_that_is_stopped_sends_what_it_has_first(platform: Platform):
    path = await platform.create()
    found = await at_least(platform, path, 10)
    await platform.host.restart()
    await until_stored(platform, path, "10m", "2h", "24h")
    again = await at_least(platform, path, len(found) + 5)
    assert {each["timestamp_ms"] for each in found} <= {each["timestamp_ms"] for each in again}


async def test_what_is_sent_twice_is_stored_once(platform: Platform):
    path = await platform.create()
    await at_least(platform, path, 5)
    arm_faults("agent.metrics.after_send=error")
    assert (await platform.api.post(f"{path}/pause")).status_code == 200
    await until_stored(platform, path, "10m")
    first = await stored(platform, path)
    async with asyncio.timeout(DEADLINE_S):
        while not platform.host.agent.outbox.files():
            await asyncio.sleep(0.02)
    arm_faults("")
    await platform.host.restart()
    async with asyncio.timeout(DEADLINE_S):
        while platform.host.agent.outbox.files():
            await asyncio.sleep(0.02)
    assert await stored(platform, path) == first


async def test_without_its_host_a_running_sandbox_is_unavailable_and_a_paused_one_is_not(platform: Platform):
    path, other = await platform.create(), await platform.create()
    await at_least(platform, path, 5)
    await at_least(platform, other, 5)
    assert (await platform.api.post(f"{other}/pause")).status_code == 200
    await until_stored(platform, other, "10m")
    platform.host.switches.fail["get_samples"] = Unavailable("gone")
    platform.host.switches.fail["get_newest_samples"] = Unavailable("gone")
    refused(await platform.api.get(f"{path}/metrics"), 503, "host_unavailable")
    assert len(await points(platform, other)) >= 5
    newest = (await platform.api.get("/v1/sandboxes/metrics")).json()["sandboxes"]
    assert newest == [{"sandbox_id": path.rpartition("/")[2]}]


async def test_newest_points_of_many_are_those_of_the_own_team(platform: Platform):
    mine = [await platform.create(), await platform.create()]
    for path in mine:
        await at_least(platform, path, 2)
    ids = [path.rpartition("/")[2] for path in mine]
    found = (await platform.api.get("/v1/sandboxes/metrics")).json()["sandboxes"]
    assert [each["sandbox_id"] for each in found] == ids[::-1]
    assert all(set(each["point"]) >= CONTRACT for each in found)
    one = (await platform.api.get("/v1/sandboxes/metrics", params={"ids": ids[0]})).json()["sandboxes"]
    assert [each["sandbox_id"] for each in one] == ids[:1]
    async with client(platform.url, await platform.other_team()) as eve:
        assert (await eve.get("/v1/sandboxes/metrics")).json() == {"sandboxes": []}
        assert (await eve.get("/v1/sandboxes/metrics", params={"ids": ",".join(ids)})).json() == {
            "sandboxes": []
        }
        refused(await eve.get(f"{mine[0]}/metrics"), 404, "not_found")


async def test_the_sdk_reads_points_over_time_and_the_newest_of_several(platform: Platform):
    path = await platform.create()
    await at_least(platform, path, 3)
    sandbox_id = path.rpartition("/")[2]
    given: dict[str, Any] = {"api_key": platform.key.reveal(), "base_url": platform.url}
    sandbox = await AsyncSandbox.connect(sandbox_id, **given)
    found = await sandbox.metrics("5m")
    assert len(found) >= 3
    assert isinstance(found[0], MetricPoint)
    assert found[0].at < found[-1].at
    assert found[-1].mem_bytes > 0
    assert set(await AsyncSandbox.newest_metrics(**given)) == {sandbox_id}
    assert await AsyncSandbox.newest_metrics([str(SandboxId.new())], **given) == {}
    await sandbox.close()


def body_of(sandbox_id: str, *samples: Sample, tier: str = "10m") -> dict[str, Any]:
    packed = base64.b64encode(b"".join(sample.pack() for sample in samples)).decode()
    return {"series": [{"sandbox_id": sandbox_id, "tier": tier, "samples": packed}]}


def sample(ago_s: float, cpu_pct: float = 1.0) -> Sample:
    return Sample(int((time.time() - ago_s) * 1000), cpu_pct, 0.0, 0.0, 4096)


async def test_a_host_stores_samples_of_its_own_sandboxes_only(platform: Platform, settings: Settings):
    path = await platform.create()
    admin = await sign_up(platform.url)
    await make_admin(str(settings.database_url), admin)
    stranger = await registered(admin, name="other")
    headers = {"X-Host-Token": stranger.token}
    url = f"/v1/hosts/{stranger.host_id}/metrics"
    sandbox_id = path.rpartition("/")[2]
    async with client(platform.url, None) as api:
        sent = await api.post(url, headers=headers, json=body_of(sandbox_id, sample(5), tier="24h"))
        assert sent.status_code == 204
        assert await stored(platform, path) == {}
        refused(await api.post(url, json=body_of(sandbox_id, sample(5))), 401, "unauthorized")
        mine = f"/v1/hosts/{await host_of(platform, path)}/metrics"
        refused(await api.post(mine, headers=headers, json={}), 403, "forbidden")
        wrongs: list[Any] = [
            {},
            [],
            {"series": [{}]},
            {"series": [{"sandbox_id": sandbox_id, "tier": "1y", "samples": ""}]},
            {"series": [{"sandbox_id": sandbox_id, "tier": "2h", "samples": "%%"}]},
            body_of("nonsense", sample(5)),
            body_of(sandbox_id, sample(5), sample(6)),
            body_of(sandbox_id, sample(5, cpu_pct=1e9)),
        ]
        for wrong in wrongs:
            refused(await api.post(url, headers=headers, json=wrong), 400, "invalid_request")
        large = await api.post(url, headers=headers, content=b" " * (1024 * 1024 + 1))
        refused(large, 413, "too_large")


async def test_stored_samples_are_limited_to_the_window_of_their_tier_and_none_is_of_the_future(
    platform: Platform,
):
    path = await platform.create()
    sandbox_id = SandboxId.parse(path.rpartition("/")[2])
    host_id = await host_of(platform, path)
    database = platform.control.database

    async def store(*samples: Sample) -> int:
        batch = SampleBatch(sandbox_id, Tier.MEDIUM, b"".join(each.pack() for each in samples))
        return await database.transaction(lambda tx: sample_store.store_batches(tx, host_id, [batch]))

    assert await store(sample(9000)) == 1
    assert await store(sample(7000)) == 1
    assert await stored(platform, path) == {"2h": 2}
    assert await store(sample(-600)) == 0, "ten minutes in the future"
    assert await stored(platform, path) == {"2h": 2}
    assert await store(sample(1)) == 1
    assert await stored(platform, path) == {"2h": 2}, "the oldest one is behind the window"
    assert await sample_store.delete_old(database, older_s=60.0, most=1000) == 1
    assert await stored(platform, path) == {"2h": 1}


async def test_a_host_that_sends_very_many_samples_fills_no_more_than_twice_a_tier(platform: Platform):
    path = await platform.create()
    sandbox_id = SandboxId.parse(path.rpartition("/")[2])
    host_id = await host_of(platform, path)
    database = platform.control.database
    now_ms = int(time.time() * 1000)

    async def store(tier: Tier, *, first: int, count: int, length: int = 1) -> int:
        batches = [
            SampleBatch(
                sandbox_id,
                tier,
                b"".join(
                    Sample(now_ms - 500_000 + number * length + part, 1.0, 0.0, 0.0, 4096).pack()
                    for part in range(length)
                ),
            )
            for number in range(first, first + count)
        ]
        return await database.transaction(lambda tx: sample_store.store_batches(tx, host_id, batches))

    # One millisecond apart, so that all are within the window.
    for first in range(0, 1000, 250):
        assert await store(Tier.MEDIUM, first=first, count=250) == 250
    assert (await stored(platform, path))["2h"] == 480
    kept = await sample_store.stored_samples(database, sandbox_id, Tier.MEDIUM)
    times = [time_of(packed, 0) for packed in kept]
    assert times == [now_ms - 500_000 + number for number in range(999, 519, -1)], "the newest ones"
    # Whole batches count by their samples.
    assert await store(Tier.COARSE, first=0, count=10, length=288) == 10
    assert (await stored(platform, path))["24h"] == 2
    # The reader bounds what an earlier release may have stored.
    await database.execute(
        text(
            "INSERT INTO sandbox_samples SELECT sandbox_id, tier, first_ms - 1000 * n, last_ms - 1000 * n, samples"
            " FROM sandbox_samples, generate_series(1, 3) AS n WHERE tier = '2h'"
        )
    )
    assert len(await sample_store.stored_samples(database, sandbox_id, Tier.MEDIUM)) == 480


async def test_samples_of_a_sandbox_that_ended_long_ago_are_not_taken(platform: Platform):
    path = await platform.create()
    sandbox_id = SandboxId.parse(path.rpartition("/")[2])
    host_id = await host_of(platform, path)
    database = platform.control.database
    assert (await platform.api.delete(path)).status_code == 204

    async def store(ago_s: float) -> int:
        batch = SampleBatch(sandbox_id, Tier.COARSE, sample(ago_s).pack())
        return await database.transaction(lambda tx: sample_store.store_batches(tx, host_id, [batch]))

    async with asyncio.timeout(DEADLINE_S):
        while (await platform.api.get(path)).json().get("status") not in (None, "stopped"):
            await asyncio.sleep(0.05)
    assert await store(2) == 1
    await database.execute(
        text("UPDATE sandboxes SET last_updated = now() - interval '25 hours' WHERE id = :id"),
        {"id": sandbox_id.value},
    )
    assert await store(1) == 0


async def test_bodies_with_too_many_values_are_refused_before_they_are_parsed(
    platform: Platform, settings: Settings
):
    path = await platform.create()
    admin = await sign_up(platform.url)
    await make_admin(str(settings.database_url), admin)
    player = await registered(admin, name="other")
    headers = {"X-Host-Token": player.token}
    url = f"/v1/hosts/{player.host_id}/metrics"
    one = body_of(path.rpartition("/")[2], sample(5), tier="24h")["series"][0]
    async with client(platform.url, None) as api:
        for content in (b'{"series": [' + b"{}," * 300_000 + b"{}]}", b"[" * 900_000, b"[" + b"0," * 500_000):
            sent = await api.post(url, headers=headers, content=content)
            assert "at most 1000" in refused(sent, 400, "invalid_request")
        too_many = await api.post(url, headers=headers, json={"series": [one] * 1001})
        refused(too_many, 400, "invalid_request")
        most = await api.post(url, headers=headers, json={"series": [one] * 1000})
        assert most.status_code == 204


async def test_samples_of_a_host_are_stored_by_one_request_at_a_time(platform: Platform):
    path = await platform.create()
    host_id = await host_of(platform, path)
    database, received = platform.control.database, platform.control.services.received_samples
    body = json.dumps(body_of(path.rpartition("/")[2], sample(5), tier="24h")).encode()
    locked, release = asyncio.Event(), asyncio.Event()

    async def hold(tx: Transaction) -> None:
        await tx.execute(text("LOCK TABLE sandbox_samples IN EXCLUSIVE MODE"))
        locked.set()
        await release.wait()

    async with asyncio.TaskGroup() as group:
        group.create_task(database.transaction(hold))
        await locked.wait()
        first = group.create_task(received.store(host_id, body))
        await asyncio.sleep(0)
        with pytest.raises(RateLimited):
            await received.store(host_id, body)
        assert not first.done()
        release.set()
    await received.store(host_id, body)
    assert (await stored(platform, path))["24h"] >= 1
