"""No statement of heartbeats, reconciliation, lists and creates scans a large table, with 1,000 hosts and 100,000 sandboxes.

About 8 s, most of it for the rows.
"""

from __future__ import annotations

from pathlib import Path

from tests.performance.placement import fill
from tests.performance.statements import fill_events, operations, placing, reads
from wrenn.control.db import Database

TIMES = 7
"""PostgreSQL may choose another plan, for any arguments, from the sixth execution on."""
ROWS_LIMIT = 5_000
"""A create reads the 1,000 sandboxes of its team, for the quota, and those of some hosts; beside it, those of 64 hosts are read once a
second."""


async def test_no_statement_scans_a_large_table(database_url: str, pki: Path):
    database = Database(database_url, answer_timeout_s=60)
    try:
        await fill(database, 1000)
        await fill_events(database, 100_000)
        async with placing(database, pki) as capacity:
            for name, operation in (await operations(database, capacity)).items():
                await operation()  # the first create reads all hosts
                before = await reads(database)
                for _ in range(TIMES):
                    await operation()
                after = await reads(database)
                assert after.scans == before.scans, f"{name}: scans a whole table"
                assert after.rows - before.rows <= TIMES * ROWS_LIMIT, f"{name}: reads too many rows"
    finally:
        await database.close()
