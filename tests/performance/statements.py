"""What the statements of heartbeats, reconciliation, lists and creates read and cost, with 1,000 hosts and 100,000 sandboxes.

`python -m tests.performance.statements` measures them in a PostgreSQL of its own; `tests/integration/test_statements_at_scale.py` runs
the same ones and fails if one of them scans a large table.
"""

from __future__ import annotations

import asyncio
import os
import time
import uuid
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from sqlalchemy import text

from tests.performance.figures import HEAD, Figure, median
from tests.performance.placement import UNLIMITED, fill, own_database
from wrenn.base.ids import HostId, SandboxId, TeamId
from wrenn.control.audit import SYSTEM
from wrenn.control.db import Database, Hints, Transaction
from wrenn.control.events import store as event_store
from wrenn.control.events.records import Audience, Position
from wrenn.control.hosts import (
    HostClients,
    HostHeartbeat,
    HostReport,
    Monitor,
    ReceivedHeartbeat,
    RecentHosts,
    heartbeat_store,
)
from wrenn.control.placement import Overcommit, Wanted
from wrenn.control.sandboxes import BackOff, Capacity
from wrenn.control.sandboxes import store as sandbox_store
from wrenn.control.sandboxes.operations import drain_store, placement_store
from wrenn.control.sandboxes.reconcile import comparison_store, expiry_store, work_store
from wrenn.control.sandboxes.reconcile.places import find_slots
from wrenn.control.sandboxes.records import Origin, Spec
from wrenn.control.sandboxes.selection import SandboxFilter, Sort, SortKey
from wrenn.control.snapshots import store as snapshot_store

Operation = Callable[[], Awaitable[object]]
LARGE_TABLES = ("sandboxes", "events", "audit_logs")
PAGE = 100


async def fill_events(database: Database, count: int) -> None:
    """Insert events of all teams."""

    async def insert(tx: Transaction) -> None:
        await tx.execute(text("SET LOCAL session_replication_role = replica"))
        await tx.execute(
            text(
                "INSERT INTO events (team_id, scope, type, resource_id, data)"
                " SELECT t.ids[1 + n % 100], 'team', 'sandbox.created', n::text, '{}'"
                " FROM generate_series(1, CAST(:count AS integer)) n, (SELECT array_agg(id) AS ids FROM teams) t"
            ),
            {"count": count},
        )

    await database.transaction(insert)
    await database.execute(text("ANALYZE events"))


async def operations(database: Database, capacity: Capacity) -> Mapping[str, Operation]:
    """Return the operations by what they are. The database is filled; each of them leaves it as it is, or adds little."""
    found = await database.execute(text("SELECT id FROM teams ORDER BY name LIMIT 1"))
    team_id = TeamId(found.scalar_one())
    found = await database.execute(text("SELECT id FROM hosts ORDER BY name LIMIT 8"))
    hosts = [HostId(row.id) for row in found]
    found = await database.execute(
        text("SELECT id FROM sandboxes WHERE host_id = :host"), {"host": hosts[0].value}
    )
    sandboxes = [SandboxId(row.id) for row in found]
    heartbeats = [await _heartbeat(database, host_id) for host_id in hosts]
    hints, an_hour_ago = Hints(sender="nobody"), datetime.now(UTC) - timedelta(hours=1)
    expired = expiry_store.expired_statement(hints)
    wanted = Wanted("minimal", vcpus=1, memory_mb=512, disk_mb=5120)
    events_end = await event_store.now(database)

    def listing(selected: SandboxFilter) -> Operation:
        return lambda: sandbox_store.live_of_team(database, team_id, selected)

    async def place(tx: Transaction) -> None:
        admission = await capacity.lock_and_read(tx, team_id)
        host = await admission.choose(wanted)
        await placement_store.insert_sandboxes(
            tx,
            hints,
            by=SYSTEM,
            ids=[SandboxId.new()],
            team_id=team_id,
            host_id=host.host_id,
            spec=Spec("minimal", 1, 512, {}),
            origin=Origin("minimal"),
        )

    return {
        "heartbeats of 8 hosts": lambda: heartbeat_store.record_usual_heartbeats(database, heartbeats),
        "heartbeat of a host that was unreachable": lambda: heartbeat_store.record_heartbeat(
            database, heartbeats[0]
        ),
        "activity of 100 sandboxes": lambda: comparison_store.record_activity(
            database, hosts[0], {sandbox_id: time.time() for sandbox_id in sandboxes}
        ),
        "digest of a host's rows": lambda: comparison_store.rows_digest(database, hosts[0]),
        "rows of a host, for its comparison": lambda: comparison_store.live_on_host(database, hosts[0]),
        "due work of the reconciler": lambda: work_store.take_due(
            database, owner="nobody", lease_s=0.0, slots=find_slots([])
        ),
        "expired sandboxes": lambda: expiry_store.set_desired_for_expired(database, expired),
        "next expiry": lambda: expiry_store.next_due_s(database),
        "abandoned snapshots": lambda: database.transaction(snapshot_store.retire_abandoned),
        "snapshots of a host": lambda: snapshot_store.on_host(database, hosts[0]),
        "phases of a host's sandboxes, for a drain": lambda: drain_store.count_phases(database, hosts[0]),
        f"list, first page of {PAGE}": listing(SandboxFilter(limit=PAGE)),
        f"list, a later page of {PAGE}": listing(
            SandboxFilter(limit=PAGE, after=(an_hour_ago, sandboxes[0]))
        ),
        f"list by label, state and name, page of {PAGE}": listing(
            SandboxFilter(
                name="a*", labels={"a": "b"}, states=frozenset({sandbox_store.State.RUNNING}), limit=PAGE
            )
        ),
        f"list by a text, page of {PAGE}": listing(SandboxFilter(text="nothing like it", limit=PAGE)),
        f"list by name, page of {PAGE}": listing(
            SandboxFilter(sort=Sort(SortKey.NAME), limit=PAGE, after=("a", sandboxes[0]))
        ),
        "one sandbox": lambda: sandbox_store.find_location(database, sandboxes[0]),
        "events of a team, page of 100": lambda: event_store.read_for(
            database, Audience(team_id, frozenset()), Position(0, 0), limit=100
        ),
        "new events": lambda: event_store.read(database, events_end, limit=100),
        "create: lock, quota, choice of the host, row": lambda: capacity.transaction(place),
    }


async def _heartbeat(database: Database, host_id: HostId) -> ReceivedHeartbeat:
    token_id = uuid.uuid4()
    await database.execute(
        text(
            "INSERT INTO host_refresh_tokens (id, host_id, token_hash, expires_at)"
            " VALUES (:id, :host, :hash, now() + interval '1 day')"
        ),
        {"id": token_id, "host": host_id.value, "hash": token_id.hex},
    )
    report = HostReport(
        vmm="qemu 7.2",
        cpu_cores=16,
        memory_b=64 << 30,
        disk_b=1000 << 30,
        sandbox_limit=4000,
        templates=("minimal", "python", "node"),
    )
    return ReceivedHeartbeat(host_id, token_id, HostHeartbeat(report, "ab" * 16))


@dataclass(frozen=True, slots=True)
class Reads:
    """What was read of the large tables until now."""

    scans: int
    rows: int


async def reads(database: Database) -> Reads:
    """Read PostgreSQL's counters, after each of the pool's connections has added its own."""
    # Each waits, so that the next takes another connection.
    flush = text("SELECT pg_stat_force_next_flush(), pg_sleep(0.05)")
    await asyncio.gather(*(database.execute(flush) for _ in range(sum(database.connections()))))
    found = await database.execute(
        text(
            "SELECT sum(seq_scan) AS scans, sum(seq_tup_read + idx_tup_fetch) AS rows FROM pg_stat_user_tables"
            " WHERE relname = ANY(:tables)"
        ),
        {"tables": list(LARGE_TABLES)},
    )
    row = found.one()
    return Reads(row.scans, int(row.rows))


@asynccontextmanager
async def placing(database: Database, pki: Path) -> AsyncGenerator[Capacity]:
    """The part of a control plane that places sandboxes."""
    clients = HostClients(pki)
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
        yield capacity
    finally:
        await capacity.close()
        await clients.close()


async def statements(rounds: int) -> list[Figure]:
    """Time, processor time of PostgreSQL, and rows of each operation."""
    figures: list[Figure] = []
    async with own_database() as (folder, database):
        await fill(database, 1000)
        await fill_events(database, 100_000)
        async with placing(database, folder / "pki") as capacity:
            for name, operation in (await operations(database, capacity)).items():
                figures.append(await _measured(name, operation, database, rounds))
    return figures


async def _measured(name: str, operation: Operation, database: Database, rounds: int) -> Figure:
    for _ in range(8):
        await operation()
    found = await database.execute(text("SELECT pg_backend_pid()"))
    backend = found.scalar_one()
    before, cpu_s = await reads(database), _cpu_s(backend)
    took: list[float] = []
    for _ in range(rounds):
        begun = time.perf_counter()
        await operation()
        took.append((time.perf_counter() - begun) * 1000)
    after, used_ms = await reads(database), (_cpu_s(backend) - cpu_s) / rounds * 1000
    rows, scans = (after.rows - before.rows) / rounds, after.scans - before.scans
    return Figure(
        name,
        "–",
        f"{median(took):.1f} ms (least {min(took):.1f}), {1000 / min(took):.0f} a second",
        f"{used_ms:.2f} ms of PostgreSQL's processor time, {rows:.0f} rows, {rows * 1000 / min(took):.0f} rows/s;"
        f" load {os.getloadavg()[0]:.1f}",
        "no scan",
        scans == 0,
    )


def _cpu_s(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


async def main() -> None:
    print(HEAD)
    for figure in await statements(int(os.environ.get("ROUNDS", "100"))):
        print(figure.row(), flush=True)


if __name__ == "__main__":
    asyncio.run(main())
