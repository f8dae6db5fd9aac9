"""Statistics and usage of teams: sampled by one replica at a time, rolled up once, and each team's own."""

from __future__ import annotations

import asyncio
import datetime as dt
import uuid
from typing import Any

import pytest
from sqlalchemy import text

from wrenn.base.ids import TeamId
from wrenn.control.db import Database, LoopLease
from wrenn.control.metrics import TeamSampler, team_store
from wrenn.control.metrics.tables import PLATFORM

from .conftest import DEADLINE_S, Platform, client, refused

STATS = "/v1/sandboxes/stats"
TEAM = TeamId(uuid.UUID(int=7))


@pytest.fixture
def sampler(database: Database) -> TeamSampler:
    return TeamSampler(database, owner="test")


async def add_samples(database: Database, ago_s: list[float], *, vcpus: int, covers_ms: int = 10_000) -> None:
    """Samples of the team, and those of all teams together."""
    await database.execute(
        text(
            "INSERT INTO team_samples"
            " SELECT team, now() - make_interval(secs => ago), :covers, :n, :n, :n * 512, :n * 1024"
            " FROM unnest(CAST(:ago AS double precision[])) AS ago, unnest(CAST(:teams AS uuid[])) AS team"
        ),
        {"teams": [TEAM.value, PLATFORM], "covers": covers_ms, "n": vcpus, "ago": ago_s},
    )


async def rows(database: Database, table: str, team_id: uuid.UUID = TEAM.value) -> list[Any]:
    found = await database.execute(text(f"SELECT * FROM {table} WHERE team_id = :id"), {"id": team_id})
    return list(found)


async def test_a_sample_counts_what_runs_and_half_of_the_memory_of_what_is_paused(platform: Platform):
    await platform.create(vcpus=2, memory_mb=257)
    paused = await platform.create(vcpus=1, memory_mb=301)
    gone = await platform.create()
    assert (await platform.api.post(f"{paused}/pause")).status_code == 200
    assert (await platform.api.delete(gone)).status_code == 204
    now = (await platform.api.get(STATS)).json()
    assert now["range"] == "1h"
    assert now["current"] == {"running_count": 1, "vcpus_reserved": 2, "memory_mb_reserved": 257 + 151}
    assert now["peaks"]["vcpus"] >= 2
    await team_store.take_samples(platform.control.database, longest_s=60.0)
    series = (await platform.api.get(STATS, params={"range": "5m"})).json()["series"]
    assert (series["running"][-1], series["vcpus"][-1], series["memory_mb"][-1]) == (1, 2, 408)
    assert len({len(column) for column in series.values()}) == 1
    dt.datetime.fromisoformat(series["labels"][0])
    async with client(platform.url, await platform.other_team()) as eve:
        others = (await eve.get(STATS, params={"range": "5m"})).json()
        assert others["current"] == {"running_count": 0, "vcpus_reserved": 0, "memory_mb_reserved": 0}
        assert others["peaks"] == {"running_count": 0, "vcpus": 0, "memory_mb": 0}
        # Samples were taken then, and the team had nothing.
        assert others["series"]["running"][-1] == 0
        assert set(others["series"]["vcpus"]) == {0}


async def test_a_sample_covers_no_negative_time_after_the_clock_was_set_back(database: Database):
    await add_samples(database, [-120.0], vcpus=1)
    await team_store.take_samples(database, longest_s=60.0)
    found = [row.covers_ms for row in await rows(database, "team_samples", PLATFORM)]
    assert sorted(found) == [0, 10_000]


async def test_the_running_platform_takes_samples_by_itself(platform: Platform):
    async with asyncio.timeout(DEADLINE_S):
        while not await rows(platform.control.database, "team_samples", PLATFORM):
            await asyncio.sleep(0.05)


async def test_one_replica_at_a_time_takes_samples_and_another_one_follows(database: Database):
    first, second = (TeamSampler(database, owner=name) for name in ("first", "second"))
    for _ in range(3):
        await asyncio.gather(first.sample_once(), second.sample_once())
    assert len(await rows(database, "team_samples", PLATFORM)) == 3
    # The first one dies: its lease runs out.
    await database.execute(text("UPDATE loop_leases SET lease_until = now() - interval '1 second'"))
    await second.sample_once()
    await first.sample_once()
    assert len(await rows(database, "team_samples", PLATFORM)) == 4
    leases = [LoopLease(database, "other", owner=name, lease_s=60) for name in ("first", "second")]
    assert [await lease.take() for lease in leases] == [True, False]
    await leases[1].give_back()
    assert [await lease.take() for lease in leases] == [True, False]
    await leases[0].give_back()
    assert [await lease.take() for lease in reversed(leases)] == [True, False]


async def test_a_sample_covers_the_time_since_the_one_before_but_no_long_gap(
    database: Database, sampler: TeamSampler
):
    await sampler.sample_once()
    await database.execute(text("UPDATE team_samples SET at = at - interval '12 seconds'"))
    await sampler.sample_once()
    await database.execute(text("UPDATE team_samples SET at = at - interval '1 hour'"))
    await sampler.sample_once()
    covered = sorted(row.covers_ms for row in await rows(database, "team_samples", PLATFORM))
    assert covered[0] == 0
    assert 12_000 <= covered[1] < 20_000
    assert covered[2] == 60_000


async def test_buckets_are_closed_once_and_their_usage_is_added_once(database: Database):
    ago = [float(seconds) for seconds in range(400, 1600, 10)]
    await add_samples(database, ago, vcpus=3)
    for _ in range(3):
        await team_store.roll_up(database, settled_s=30.0)
    closed = await rows(database, "team_usage")
    assert 3 <= len(closed) <= 5
    assert all((row.running_count, row.vcpus, row.memory_mb) == (3, 3, 1536) for row in closed)
    assert all(row.at.minute % 5 == 0 and row.at.second == 0 for row in closed)
    days = await rows(database, "team_usage_days")
    # Each sample stands for ten seconds; those of the bucket that is still open are not in.
    cpu_seconds = sum(row.cpu_seconds for row in days)
    newest = max(row.at for row in closed) + dt.timedelta(seconds=team_store.BUCKET_S)
    now = (await database.execute(text("SELECT now()"))).scalar_one()
    within = [seconds for seconds in ago if now - dt.timedelta(seconds=seconds) < newest]
    assert cpu_seconds == pytest.approx(len(within) * 10 * 3, abs=60)
    assert sum(row.ram_mb_seconds for row in days) == cpu_seconds * 512
    assert sum(row.disk_mb_seconds for row in days) == cpu_seconds * 1024


async def test_old_samples_and_buckets_are_deleted_and_days_stay(database: Database, sampler: TeamSampler):
    await add_samples(database, [90_001.0, 5.0], vcpus=1)
    await database.execute(
        text(
            "INSERT INTO team_usage SELECT :team, now() - make_interval(days => age), 1, 1, 1 FROM unnest(ARRAY[61, 59]) AS age"
        ),
        {"team": TEAM.value},
    )
    await database.execute(
        text("INSERT INTO team_usage_days VALUES (:team, '2020-01-01', 1, 1, 1)"), {"team": TEAM.value}
    )
    await sampler.delete_old()
    assert len(await rows(database, "team_samples")) == 1
    assert len(await rows(database, "team_usage")) == 1
    assert len(await rows(database, "team_usage_days")) == 1


async def test_series_have_the_highest_value_of_each_bucket_and_gaps_where_nothing_was_measured(
    database: Database,
):
    await add_samples(database, [3500.0, 3000.0, 40.0], vcpus=1)
    await add_samples(database, [2999.0], vcpus=5)
    found = await team_store.series(database, TEAM, span_s=3600.0, bucket_s=180.0)
    assert sorted(bucket.totals.vcpus for bucket in found) in ([1, 1, 5], [1, 1, 1, 5])
    assert [bucket.at for bucket in found] == sorted(bucket.at for bucket in found)
    assert await team_store.series(database, TEAM, span_s=30.0, bucket_s=3.0) == []
    await team_store.roll_up(database, settled_s=30.0)
    month = await team_store.series(database, TEAM, span_s=30 * 86_400.0, bucket_s=21_600.0)
    assert max(bucket.totals.vcpus for bucket in month) == 5
    assert (await team_store.peaks(database, TEAM, span_s=30 * 86_400.0)).vcpus == 5


async def test_series_and_peaks_are_read_from_the_index_alone(database: Database):
    await database.execute(
        text(
            "INSERT INTO team_usage SELECT ('00000000-0000-0000-0000-' || lpad(to_hex(team), 12, '0'))::uuid,"
            " date_bin('5 minutes', now(), 'epoch') - make_interval(mins => 5 * bucket), 1, 1, 1"
            " FROM generate_series(1, 1000) AS bucket, generate_series(0, 100) AS team"
        )
    )
    await database.execute(text("VACUUM ANALYZE team_usage, team_samples"))
    arguments = {"team": TEAM.value, "platform": PLATFORM, "span_s": 2_592_000.0}
    for statement, more in (
        (team_store.COARSE_SERIES, {"bucket_s": 21_600.0}),
        (team_store.PEAKS, {"recent_s": 900.0}),
    ):
        used = {name: value for name, value in arguments.items() if f":{name}" in statement.text}
        plan = await database.execute(text(f"EXPLAIN {statement.text}"), used | more)
        lines = [row[0] for row in plan if " on team_usage" in row[0]]
        assert lines
        assert all("Index Only Scan using pk_team_usage" in line for line in lines), lines


async def test_usage_has_each_day_of_a_period_and_only_the_own(platform: Platform):
    database = platform.control.database
    team = (
        await database.execute(text("SELECT id FROM teams ORDER BY created_at DESC LIMIT 1"))
    ).scalar_one()
    await database.execute(
        text("INSERT INTO team_usage_days VALUES (:team, '2026-02-27', 90, 60000, 120)"), {"team": team}
    )
    period = {"from": "2026-02-26", "to": "2026-03-01"}
    found = (await platform.api.get("/v1/usage", params=period)).json()
    assert (found["from"], found["to"]) == ("2026-02-26", "2026-03-01")
    assert [point["date"] for point in found["points"]] == [
        "2026-02-26",
        "2026-02-27",
        "2026-02-28",
        "2026-03-01",
    ]
    assert found["points"][1] == {
        "date": "2026-02-27",
        "cpu_minutes": 1.5,
        "ram_mb_minutes": 1000.0,
        "disk_mb_minutes": 2.0,
    }
    assert found["points"][2]["cpu_minutes"] == 0
    assert len((await platform.api.get("/v1/usage")).json()["points"]) == 30
    assert (await platform.api.get("/v1/capsules/usage", params=period)).json() == found
    async with client(platform.url, await platform.other_team()) as eve:
        points = (await eve.get("/v1/usage", params=period)).json()["points"]
        assert all(point["cpu_minutes"] == 0 for point in points)


async def test_bad_periods_and_ranges_are_refused(platform: Platform):
    for query in (
        "from=2026-02-30",
        "from=x",
        "from=2026-03-01&to=2026-02-01",
        "from=2026-01-01&to=2026-04-03",
        "to=0001-01-01",
        "from=9999-12-31",
    ):
        refused(await platform.api.get(f"/v1/usage?{query}"), 400, "invalid_request")
    refused(await platform.api.get(f"{STATS}?range=7d"), 400, "invalid_request")
