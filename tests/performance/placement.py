"""What placement takes of a create, with one host, and with 1,000 hosts and 100,000 sandboxes, in a PostgreSQL of its own.

`python -m tests.performance.placement` runs this alone. Nothing is started: hosts and sandboxes are rows.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import tempfile
import time
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path

from sqlalchemy import text

from tests.performance.figures import Figure, median
from wrenn.base.ids import TeamId
from wrenn.control.db import Database, Transaction
from wrenn.control.db.embedded import ensure_running, stop
from wrenn.control.db.migrate import migrate
from wrenn.control.hosts import HostClients, Monitor, RecentHosts, ensure_pki
from wrenn.control.placement import Overcommit, Wanted
from wrenn.control.quotas import Limits
from wrenn.control.sandboxes import BackOff, Capacity

SANDBOXES_PER_HOST = 100
SANDBOXES_PER_TEAM = 1000
WARM_UP = 8
"""PostgreSQL chooses a plan for good after some executions."""
FILL_TIMEOUT_S = 300.0
"""The rows of 100,000 sandboxes take longer than any statement of the control plane may."""
UNLIMITED = Limits(
    running_sandboxes=None,
    total_sandboxes=None,
    vcpus=None,
    memory_mb=None,
    templates=None,
    snapshot_mb=None,
    creates_per_second=None,
)


async def placement(rounds: int) -> list[Figure]:
    """The time of the choice of a host, beside that of the whole transaction with the lock and the quota."""
    figures: list[Figure] = []
    for hosts, limit_ms in ((1, 1.0), (1000, 10.0)):
        async with _filled_database(hosts) as (database, capacity, team_id):
            total, chosen, floor = await _measure(database, capacity, team_id, rounds)
        figures.append(
            Figure(
                f"choice of a host for a create, hosts with {SANDBOXES_PER_HOST} sandboxes: {hosts}",
                f"{median(floor):.1f} ms (least {min(floor):.1f}): `SELECT 1` on the same connection",
                f"{median(chosen):.1f} ms (least {min(chosen):.1f})",
                f"of {median(total):.1f} ms (least {min(total):.1f}); load {os.getloadavg()[0]:.1f}",
                f"≤ {limit_ms:g} ms",
                median(chosen) <= limit_ms,
            )
        )
    return figures


async def _measure(
    database: Database, capacity: Capacity, team_id: TeamId, rounds: int
) -> tuple[list[float], list[float], list[float]]:
    """Milliseconds of whole transactions with the lock, the quota and the choice, of the choice alone, and of a round trip."""
    wanted = Wanted("minimal", vcpus=1, memory_mb=512, disk_mb=5120)
    total: list[float] = []
    chosen: list[float] = []
    floor: list[float] = []
    nothing = text("SELECT 1")

    async def place(tx: Transaction) -> None:
        admission = await capacity.lock_and_read(tx, team_id)
        begun = time.perf_counter()
        await admission.choose(wanted)
        chosen.append((time.perf_counter() - begun) * 1000)
        begun = time.perf_counter()
        await tx.execute(nothing)
        floor.append((time.perf_counter() - begun) * 1000)

    for _ in range(rounds + WARM_UP):
        begun = time.perf_counter()
        await capacity.transaction(place)
        total.append((time.perf_counter() - begun) * 1000)
    return total[WARM_UP:], chosen[WARM_UP:], floor[WARM_UP:]


@asynccontextmanager
async def own_database() -> AsyncGenerator[tuple[Path, Database]]:
    """A PostgreSQL with all migrations, in a folder that also has the files of a CA."""
    folder = Path(tempfile.mkdtemp(prefix="wrenn-placement-"))
    folder.chmod(0o711)
    try:
        url = await ensure_running(folder)
        await migrate(url)
        ensure_pki(folder / "pki")
        database = Database(url, answer_timeout_s=FILL_TIMEOUT_S)
        try:
            yield folder, database
        finally:
            await database.close()
    finally:
        await stop(folder)
        shutil.rmtree(folder)


@asynccontextmanager
async def _filled_database(count: int) -> AsyncGenerator[tuple[Database, Capacity, TeamId]]:
    async with own_database() as (folder, database):
        await fill(database, count)
        clients = HostClients(folder / "pki")
        found = await database.execute(text("SELECT id FROM teams WHERE name = 'team 1'"))
        hosts = RecentHosts(database, interval_s=60)
        monitor = Monitor(database, hosts, clients, interval_s=60, missing_after_s=90)
        capacity = Capacity(
            database,
            hosts,
            monitor,
            overcommit=Overcommit(4, 60, 100),
            defaults=UNLIMITED,
            back_off=BackOff(),
            uploads_snapshots=True,
        )
        try:
            yield database, capacity, TeamId(found.scalar_one())
        finally:
            await capacity.close()
            await clients.close()


async def fill(database: Database, hosts: int) -> None:
    """Insert hosts of 64 GiB that all answer, teams, and sandboxes on the hosts, all running but a tenth that are paused."""
    sandboxes = hosts * SANDBOXES_PER_HOST
    teams = max(1, sandboxes // SANDBOXES_PER_TEAM)
    values = {"hosts": hosts, "teams": teams, "sandboxes": sandboxes}
    for statement in (
        "INSERT INTO teams (id, name, slug) SELECT gen_random_uuid(), 'team ' || n, 'team-' || n"
        " FROM generate_series(1, CAST(:teams AS integer)) n",
        "INSERT INTO hosts (id, name, address, status, is_reachable, last_seen_at, cpu_cores, memory_b, disk_b, sandbox_limit,"
        " templates) SELECT gen_random_uuid(), 'host' || n, 'https://127.0.0.1:1', 'online', true, now() + interval '1 day', 16,"
        " 64::bigint << 30, 1000::bigint << 30, 4000, ARRAY['minimal', 'python', 'node']"
        " FROM generate_series(1, CAST(:hosts AS integer)) n",
        "INSERT INTO sandboxes (id, team_id, host_id, vcpus, memory_mb, disk_size_mb, status, desired, created_at, last_active_at)"
        " SELECT lpad(to_hex(n), 32, '0')::uuid, t.ids[1 + n % :teams], h.ids[1 + n % :hosts], 1, 512, 5120,"
        " CASE WHEN n / :hosts % 10 = 0 THEN 'paused' ELSE 'running' END,"
        " CASE WHEN n / :hosts % 10 = 0 THEN 'paused' ELSE 'running' END, now() - interval '1 hour' - n * interval '1 ms', now()"
        " FROM generate_series(0, CAST(:sandboxes AS integer) - 1) n,"
        " (SELECT array_agg(id) AS ids FROM teams WHERE name LIKE 'team %') t, (SELECT array_agg(id) AS ids FROM hosts) h",
    ):

        async def run(tx: Transaction, statement: str = statement) -> None:
            # Foreign keys are not checked, and nothing is notified: that would take four times as long.
            await tx.execute(text("SET LOCAL session_replication_role = replica"))
            await tx.execute(text(f"SET LOCAL statement_timeout = '{FILL_TIMEOUT_S:.0f}s'"))
            used = {name: value for name, value in values.items() if f":{name}" in statement}
            await tx.execute(text(statement), used)

        await database.transaction(run)
    await database.execute(text("ANALYZE"))


async def main() -> None:
    for figure in await placement(int(os.environ.get("ROUNDS", "30"))):
        print(figure.row(), flush=True)


if __name__ == "__main__":
    asyncio.run(main())
