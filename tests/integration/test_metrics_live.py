"""Streams of the newest metrics: of the own team, bounded, and over when they are to be."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import httpx2
import pytest

from wrenn.base.ids import SandboxId
from wrenn.control.metrics import live as live_module
from wrenn.control.metrics.sandbox_metrics import NewestSample
from wrenn.control.metrics.types import newest_point_json
from wrenn.testing.agent_host import AgentHost, agent_host

from .conftest import DEADLINE_S, Platform, client, refused, run_sql
from .event_reader import Reader

STREAM = "/v1/sandboxes/metrics/stream"


@pytest.fixture
async def host(tmp_path: Path) -> AsyncIterator[AgentHost]:
    """Samples twenty times a second."""
    async with agent_host(tmp_path / "agent", WRENN_SAMPLE_INTERVAL_S="0.05") as host:
        yield host


@pytest.fixture(autouse=True)
def often(monkeypatch: pytest.MonkeyPatch) -> None:
    """Streams send twenty times a second."""
    monkeypatch.setattr(live_module, "_EVERY_S", 0.05)


@asynccontextmanager
async def streaming(api: httpx2.AsyncClient, query: str = "") -> AsyncGenerator[Reader]:
    async with api.stream("GET", STREAM + query) as response:
        assert response.status_code == 200
        assert response.headers["content-type"].startswith("text/event-stream")
        yield Reader(response)


async def shown(reader: Reader, *ids: str) -> dict[str, Any]:
    """The points by sandbox, once these sandboxes and no others have some."""
    while True:
        ((kind, data),) = await reader.take(1)
        assert (kind, data["type"]) == ("metrics", "metrics")
        points = {each["sandbox_id"]: each["point"] for each in data["sandboxes"]}
        if set(points) == set(ids):
            return points


def id_of(path: str) -> str:
    return path.rpartition("/")[2]


async def test_a_stream_has_new_points_of_what_runs_and_of_nobody_else(platform: Platform):
    first = id_of(await platform.create())
    async with streaming(platform.api) as reader:
        before = await shown(reader, first)
        second = id_of(await platform.create())
        after = await shown(reader, first, second)
        assert after[first]["timestamp_ms"] > before[first]["timestamp_ms"]
        assert (await platform.api.post(f"/v1/sandboxes/{first}/pause")).status_code == 200
        await shown(reader, second)
        async with streaming(platform.api, f"?ids={second},{SandboxId.new()}") as one:
            await shown(one, second)
        async with client(platform.url, await platform.other_team()) as eve:
            async with streaming(eve, f"?ids={second}") as foreign:
                await shown(foreign)


async def test_many_streams_of_a_team_are_one_call_to_its_host_each_time(platform: Platform):
    first = id_of(await platform.create())
    async with AsyncExitStack() as stack:
        readers = [await stack.enter_async_context(streaming(platform.api)) for _ in range(5)]
        for reader in readers:
            await shown(reader, first)
        before = platform.host.calls["get_newest_samples"]
        for _ in range(10):
            await shown(readers[0], first)
        # Of the five each for itself it would be fifty, and a busy machine reads later than it writes.
        assert platform.host.calls["get_newest_samples"] - before <= 25


async def test_streams_of_a_team_are_limited_and_bad_requests_are_refused(
    platform: Platform, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(live_module, "_OF_TEAM", 1)
    refused(await platform.api.get(f"{STREAM}?ids=x"), 400, "invalid_request")
    async with client(platform.url, None) as nobody:
        refused(await nobody.get(STREAM), 401, "unauthorized")
    async with streaming(platform.api) as reader:
        await shown(reader)
        refused(await platform.api.get(STREAM), 429, "rate_limited")
        async with client(platform.url, await platform.other_team()) as eve, streaming(eve) as other:
            await shown(other)
    async with asyncio.timeout(DEADLINE_S):
        while (await platform.api.get(f"{STREAM}?ids=x")).status_code != 400:
            await asyncio.sleep(0.05)
    async with streaming(platform.api) as again:
        await shown(again)


async def test_a_sample_is_encoded_once_for_all_streams_of_a_team(
    platform: Platform, monkeypatch: pytest.MonkeyPatch
):
    encoded: Counter[SandboxId] = Counter()

    def counted(newest: NewestSample) -> dict[str, object]:
        encoded[newest.sandbox_id] += 1
        return newest_point_json(newest)

    monkeypatch.setattr(live_module, "newest_point_json", counted)
    first = id_of(await platform.create())
    async with AsyncExitStack() as stack:
        # Each names the sandbox and one more, so no two have the same frame.
        readers = [
            await stack.enter_async_context(streaming(platform.api, f"?ids={first},{SandboxId.new()}"))
            for _ in range(5)
        ]
        for reader in readers:
            await shown(reader, first)
        encoded.clear()
        before = platform.host.calls["get_newest_samples"]
        async with asyncio.timeout(DEADLINE_S):
            # What the reader has received and not read was encoded before.
            while encoded[SandboxId.parse(first)] < 9:
                await shown(readers[0], first)
        assert encoded[SandboxId.parse(first)] <= platform.host.calls["get_newest_samples"] - before + 1


async def test_streams_of_a_team_name_no_more_sandboxes_than_are_read(
    platform: Platform, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(live_module, "SANDBOXES_LIMIT", 3)
    first, second = id_of(await platform.create()), id_of(await platform.create())
    async with streaming(platform.api, f"?ids={first},{second}") as one:
        await shown(one, first, second)
        more = f"?ids={first},{SandboxId.new()},{SandboxId.new()}"
        assert "name more than 3 sandboxes" in refused(
            await platform.api.get(STREAM + more), 429, "rate_limited"
        )
        async with streaming(platform.api, f"?ids={first},{SandboxId.new()}") as other:
            await shown(other, first)
        async with streaming(platform.api) as everything:
            await shown(everything, first, second)
    async with asyncio.timeout(DEADLINE_S), AsyncExitStack() as stack:
        while True:
            response = await stack.enter_async_context(platform.api.stream("GET", STREAM + more))
            if response.status_code == 200:
                break
            await asyncio.sleep(0.05)


async def test_nothing_is_read_when_nobody_looks_and_a_shutdown_ends_streams(platform: Platform):
    first = id_of(await platform.create())
    async with streaming(platform.api) as reader:
        await shown(reader, first)
    await asyncio.sleep(0.3)
    before = platform.host.calls["get_newest_samples"]
    await asyncio.sleep(0.3)
    assert platform.host.calls["get_newest_samples"] == before
    async with streaming(platform.api) as reader:
        await shown(reader, first)
        platform.control.begin_shutdown()
        async with asyncio.timeout(DEADLINE_S):
            while await reader.next() is not None:
                pass
    refused(await platform.api.get(STREAM), 503, "host_unavailable")


async def test_a_revoked_key_ends_its_streams(platform: Platform):
    key = await platform.other_team()
    async with client(platform.url, key) as eve, streaming(eve) as reader:
        await shown(reader)
        await run_sql(str(platform.settings.database_url), "DELETE FROM team_api_keys")
        async with asyncio.timeout(DEADLINE_S):
            while await reader.next() is not None:
                pass
