"""Statistics of one team among 1,000 with 30 days each, ten million rows: `python -m tests.performance.team_statistics`.

Prints the time of each statement, of the whole answer, and the plan of the slowest series.
"""

from __future__ import annotations

import asyncio
import sys
import time
import uuid
from collections.abc import Awaitable, Callable
from typing import Final

from sqlalchemy import text

from tests.integration.postgres_servers import postgres_folder
from tests.performance.figures import median, percentile
from wrenn.base.clock import SystemClock
from wrenn.base.ids import TeamId
from wrenn.control.db import Database
from wrenn.control.db.embedded import ensure_running, stop
from wrenn.control.db.migrate import migrate
from wrenn.control.metrics import TeamMetrics, TeamSampler, team_store
from wrenn.control.metrics.ranges import StatsRange
from wrenn.control.metrics.tables import PLATFORM

TEAMS: Final = 1000
DAYS: Final = 30
SAMPLED_TEAMS: Final = 150
"""Of so many teams there is a day of samples at ten seconds: 1.3 million rows beside the 8.6 million buckets."""
ROUNDS: Final = 40
LIMIT_MS: Final = 50.0

_TEAM: Final = "('00000000-0000-0000-0000-' || lpad(to_hex(team), 12, '0'))::uuid"


async def fill(database: Database) -> int:
    """Write the rows in the order of time, as they come; returns how many."""
    for day in range(DAYS, 0, -1):
        await database.execute(
            text(
                f"INSERT INTO team_usage SELECT {_TEAM}, at, team % 7, team % 11, team % 13 * 512"
                " FROM generate_series(date_bin('5 minutes', now() - make_interval(days => :day), 'epoch'),"
                " date_bin('5 minutes', now() - make_interval(days => :day - 1), 'epoch') - interval '5 minutes',"
                " interval '5 minutes') AS at, generate_series(0, :teams) AS team"
            ),
            {"day": day, "teams": TEAMS},
        )
    for hour in range(24, 0, -1):
        await database.execute(
            text(
                f"INSERT INTO team_samples SELECT {_TEAM}, at, 10000, team % 7, team % 11, team % 13 * 512, 0"
                " FROM generate_series(date_trunc('minute', now()) - make_interval(hours => :hour),"
                " date_trunc('minute', now()) - make_interval(hours => :hour - 1) - interval '10 seconds',"
                " interval '10 seconds') AS at, generate_series(0, :teams) AS team"
            ),
            {"hour": hour, "teams": SAMPLED_TEAMS},
        )
    # As autovacuum does after each percent of new rows.
    await database.execute(text("VACUUM ANALYZE team_usage, team_samples"))
    found = await database.execute(
        text("SELECT (SELECT count(*) FROM team_usage) + (SELECT count(*) FROM team_samples)")
    )
    return int(found.scalar_one())


async def timed(work: Callable[[], Awaitable[object]]) -> list[float]:
    """How long each of the rounds takes, in ms."""
    times: list[float] = []
    for _ in range(ROUNDS):
        began = time.perf_counter()
        await work()
        times.append((time.perf_counter() - began) * 1000)
    return times


async def main() -> None:
    """Fill a PostgreSQL of its own, and print what was measured."""
    with postgres_folder() as folder:
        url = await ensure_running(folder)
        database = Database(url, answer_timeout_s=600)
        try:
            await migrate(url)
            count = await fill(database)
            sys.stdout.write(f"{count:,} rows\n")
            team_id = TeamId(uuid.UUID(int=77))
            metrics = TeamMetrics(database=database, clock=SystemClock())
            slowest = 0.0
            for span in StatsRange:
                times = await timed(lambda span=span: metrics.stats_of(team_id, span))
                slowest = max(slowest, percentile(times, 0.95))
                sys.stdout.write(
                    f"stats, range {span}: median {median(times):.1f} ms, 95 % {percentile(times, 0.95):.1f} ms\n"
                )
            sampler = TeamSampler(database, owner="measured")
            await sampler.sample_once()
            for name, work in {
                "sample": lambda: team_store.take_samples(database, longest_s=60.0),
                "roll-up without a new bucket": lambda: team_store.roll_up(database, settled_s=30.0),
            }.items():
                times = await timed(work)
                sys.stdout.write(f"{name}: median {median(times):.1f} ms\n")
            arguments = {
                "team": team_id.value, "platform": PLATFORM, "span_s": 2_592_000.0, "bucket_s": 21_600.0,
            }  # fmt: skip
            plan = await database.execute(
                text(f"EXPLAIN (ANALYZE, BUFFERS, COSTS OFF) {team_store.COARSE_SERIES.text}"), arguments
            )
            sys.stdout.write("\n".join(row[0] for row in plan) + "\n")
            sys.exit(slowest > LIMIT_MS)
        finally:
            await database.close()
            await stop(folder)


if __name__ == "__main__":
    asyncio.run(main())
