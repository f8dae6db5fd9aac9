"""Placement on hosts of which there are too many to be read for each create: rows in PostgreSQL, no agents."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text

from wrenn.base.errors import NoCapacity
from wrenn.base.ids import HostId, SandboxId, TeamId
from wrenn.control.db import Database, Transaction
from wrenn.control.hosts import HostClients, Monitor, RecentHosts
from wrenn.control.placement import NO_LOAD, Load, Overcommit, Wanted
from wrenn.control.quotas import Limits
from wrenn.control.sandboxes import BackOff, Capacity
from wrenn.control.sandboxes.operations.candidates import FEW_HOSTS
from wrenn.control.sandboxes.operations.placement_store import host_loads

UNLIMITED = Limits(
    running_sandboxes=None,
    total_sandboxes=None,
    vcpus=None,
    memory_mb=None,
    templates=None,
    snapshot_mb=None,
    creates_per_second=None,
)
WANTED = Wanted("minimal", vcpus=1, memory_mb=128, disk_mb=5120)
MANY = FEW_HOSTS + 8


async def fill(database: Database, *, hosts: int, slots: int) -> TeamId:
    """Insert a team and hosts that seem to be restarting for ever: they are called, and do not answer."""
    team = await database.execute(
        text("INSERT INTO teams (id, name, slug) VALUES (gen_random_uuid(), 'team', 'team') RETURNING id")
    )
    await database.execute(
        text(
            "INSERT INTO hosts (id, name, address, status, is_reachable, last_seen_at, cpu_cores, memory_b, disk_b,"
            " sandbox_limit, templates) SELECT gen_random_uuid(), 'host' || n, 'https://127.0.0.1:1', 'online', true,"
            " now() + interval '1 day', 16, 64::bigint << 30, 1000::bigint << 30, :slots, ARRAY['minimal']"
            " FROM generate_series(1, CAST(:hosts AS integer)) n"
        ),
        {"hosts": hosts, "slots": slots},
    )
    return TeamId(team.scalar_one())


@asynccontextmanager
async def replica(url: str, pki: Path) -> AsyncGenerator[Capacity]:
    """The part of a control plane that places sandboxes."""
    database, clients = Database(url), HostClients(pki)
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
        await database.close()


async def place(capacity: Capacity, team_id: TeamId, wanted: Wanted = WANTED) -> HostId:
    """Place a sandbox, and insert its row."""

    async def insert(tx: Transaction) -> HostId:
        host = await (await capacity.lock_and_read(tx, team_id)).choose(wanted)
        await tx.execute(
            text(
                "INSERT INTO sandboxes (id, team_id, host_id, vcpus, memory_mb, disk_size_mb)"
                " VALUES (:id, :team_id, :host_id, 1, :memory_mb, :disk_mb)"
            ),
            {
                "id": SandboxId.new().value,
                "team_id": team_id.value,
                "host_id": host.host_id.value,
                "memory_mb": wanted.memory_mb,
                "disk_mb": wanted.disk_mb,
            },
        )
        return host.host_id

    return await capacity.transaction_asking_hosts(insert)


async def test_two_replicas_fill_many_hosts_exactly(database_url: str, database: Database, pki: Path):
    team_id = await fill(database, hosts=MANY, slots=2)
    async with replica(database_url, pki) as one, replica(database_url, pki) as other:
        placed = await asyncio.gather(
            *(place(one if n % 2 else other, team_id) for n in range(2 * MANY + 6)), return_exceptions=True
        )
        refused = [each for each in placed if isinstance(each, BaseException)]
        assert [type(each) for each in refused] == [NoCapacity] * 6, refused
        assert f"sandbox slots full ({MANY} hosts)" in str(refused[0])
        assert Counter(Counter(placed).values()) == {2: MANY, 1: 6}, "no host has more than it has slots for"
        # What ends is free at once, on every replica.
        await database.execute(
            text(
                "UPDATE sandboxes SET status = 'stopped' WHERE id = (SELECT max(id::text)::uuid FROM sandboxes)"
            )
        )
        await place(other, team_id)
        with pytest.raises(NoCapacity):
            await place(one, team_id)


async def test_an_old_view_of_the_hosts_costs_no_create_and_no_wrong_place(
    database_url: str, database: Database, pki: Path
):
    team_id = await fill(database, hosts=MANY, slots=10)
    async with replica(database_url, pki) as capacity:
        spread = Counter([await place(capacity, team_id) for _ in range(MANY)])
        assert len(spread) > MANY / 2
        await database.execute(
            text(
                "UPDATE hosts SET last_seen_at = now() - interval '1 hour', is_reachable = false WHERE name <> 'host1'"
            )
        )
        left = await database.execute(text("SELECT id FROM hosts WHERE name = 'host1'"))
        host_id = HostId(left.scalar_one())
        assert await place(capacity, team_id) == host_id
        tagged = Wanted("minimal", 1, 128, 5120, host_tags=frozenset({"gpu"}))
        with pytest.raises(NoCapacity, match=r"without the tags \(1 host\)"):
            await place(capacity, team_id, tagged)
        await database.execute(
            text("INSERT INTO host_tags (host_id, tag) VALUES (:id, 'gpu')"), {"id": host_id.value}
        )
        assert await place(capacity, team_id, tagged) == host_id
        await database.execute(text("UPDATE hosts SET deleted_at = now()"))
        with pytest.raises(NoCapacity):
            await place(capacity, team_id)


async def test_what_is_promised_on_hosts_is_what_their_sandboxes_take(database: Database):
    """After any changes of their rows, whether all hosts are read or some."""
    team_id = await fill(database, hosts=4, slots=10)
    hosts = [HostId(row.id) for row in await database.execute(text("SELECT id FROM hosts"))]
    dice = random.Random(11)
    for _ in range(3):
        for _ in range(40):
            status = dice.choice(["pending", "starting", "running", "paused", "missing", "stopped", "error"])
            await database.execute(
                text(
                    "INSERT INTO sandboxes (id, team_id, host_id, template, vcpus, memory_mb, disk_size_mb, status, desired)"
                    " VALUES (gen_random_uuid(), :team_id, :host_id, :template, :vcpus, :memory_mb, :disk_mb, :status, :desired)"
                ),
                {
                    "team_id": team_id.value,
                    # One host stays empty.
                    "host_id": dice.choice(hosts[1:]).value,
                    "template": dice.choice(["minimal", "other"]),
                    "vcpus": dice.randint(1, 8),
                    "memory_mb": dice.randint(128, 4096),
                    "disk_mb": dice.randint(5120, 20_000),
                    "status": status,
                    "desired": dice.choice(["running", "paused", "stopped"]),
                },
            )
        await database.execute(
            text(
                "UPDATE sandboxes SET status = 'paused', desired = 'running' WHERE random() < 0.2 AND status <> 'error'"
            )
        )
        rows = (await database.execute(text("SELECT * FROM sandboxes"))).all()
        expected = {host_id: _sum(rows, host_id) for host_id in hosts}

        async def read(tx: Transaction, expected: dict[HostId, Load] = expected) -> None:
            assert (await host_loads(tx, template="minimal")).loads == expected
            for host_id in hosts:
                some = await host_loads(tx, template="minimal", host_ids=[host_id])
                assert some.loads == {host_id: expected[host_id]}

        await database.transaction(read)
        assert expected[hosts[0]] == NO_LOAD


def _sum(rows: Sequence[Any], host_id: HostId) -> Load:
    here = [row for row in rows if row.host_id == host_id.value and row.status not in ("stopped", "error")]
    in_memory = [row for row in here if row.status != "paused" or row.desired == "running"]
    new = [row for row in here if row.status in ("pending", "starting")]
    return Load(
        sandboxes=len(in_memory),
        memory_mb=sum(row.memory_mb for row in in_memory),
        disk_mb=sum(row.disk_size_mb for row in here),
        disks=len(here),
        vcpus=sum(row.vcpus for row in in_memory),
        creates=len(new),
        has_template=any(row.template == "minimal" and row not in new for row in here),
    )
