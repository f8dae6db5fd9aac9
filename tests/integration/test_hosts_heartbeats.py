"""Heartbeats of many hosts are stored together (`control/hosts/heartbeats.py`): rows in PostgreSQL, no agents."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator

import pytest
from sqlalchemy import text

from wrenn.base.errors import DatabaseUnavailable, NotFound, Unauthorized
from wrenn.base.ids import HostId
from wrenn.control.db import Database, Transaction
from wrenn.control.hosts import (
    Heartbeats,
    HostDeleted,
    HostHeartbeat,
    HostReport,
    ReceivedHeartbeat,
    RecentHosts,
)


@pytest.fixture
async def heartbeats(database: Database) -> AsyncIterator[Heartbeats]:
    made = Heartbeats(database)
    yield made
    await made.close()


async def online_host(database: Database) -> ReceivedHeartbeat:
    """Insert a host that is online, and a refresh token; returns a heartbeat of it."""
    host_id, token_id = HostId.new(), uuid.uuid4()
    await database.execute(
        text(
            "INSERT INTO hosts (id, name, address, status, vmm, last_heartbeat_at)"
            " VALUES (:id, :name, 'https://127.0.0.1:1', 'online', 'before', now() - interval '1 minute')"
        ),
        {"id": host_id.value, "name": str(host_id)},
    )
    await database.execute(
        text(
            "INSERT INTO host_refresh_tokens (id, host_id, token_hash, expires_at, ca_signer, ca_trusted)"
            " VALUES (:id, :host, :hash, now() + interval '1 day', 'signer', 'signer,other')"
        ),
        {"id": token_id, "host": host_id.value, "hash": token_id.hex},
    )
    return ReceivedHeartbeat(host_id, token_id, HostHeartbeat(inventory=token_id.hex))


async def row_of(database: Database, received: ReceivedHeartbeat):
    found = await database.execute(
        text("SELECT *, now() - last_heartbeat_at < interval '30 s' AS is_heard FROM hosts WHERE id = :id"),
        {"id": received.host_id.value},
    )
    return found.one()


async def statements(database: Database) -> int:
    """How many transactions this database has had."""
    await database.execute(text("SELECT pg_stat_force_next_flush()"))
    found = await database.execute(
        text("SELECT xact_commit FROM pg_stat_database WHERE datname = current_database()")
    )
    return found.scalar_one()


async def test_many_heartbeats_are_stored_by_few_statements_each_with_what_it_says(
    database: Database, heartbeats: Heartbeats
):
    hosts = [await online_host(database) for _ in range(40)]
    saying = [
        ReceivedHeartbeat(
            host.host_id,
            host.token_id,
            HostHeartbeat(
                HostReport(
                    vmm=f'"{n}" \\ ä',
                    memory_b=2**63 - 1,
                    cpu_cores=n,
                    sandbox_limit=2**31 - 1,
                    templates=("a,b", f"{{{n}}}") if n else (),
                ),
                f"{n:02x}",
            ),
        )
        for n, host in enumerate(hosts[:20])
    ]
    before = await statements(database)
    held = await asyncio.gather(*map(heartbeats.record, [*saying, *hosts[20:]]))
    made = await statements(database) - before
    assert {each.cas.signer for each in held if each.cas is not None} == {"signer"}
    assert len(held) == 40
    assert made < 12, "with those of the count itself"
    for n, host in enumerate(saying):
        row = await row_of(database, host)
        assert (row.vmm, row.memory_b, row.cpu_cores) == (f'"{n}" \\ ä', 2**63 - 1, n)
        assert (row.templates, row.inventory) == (["a,b", f"{{{n}}}"] if n else [], f"{n:02x}")
        assert row.is_heard
    for host in hosts[20:]:
        row = await row_of(database, host)
        assert (row.vmm, row.inventory, row.is_heard) == ("before", host.token_id.hex, True)


async def test_no_heartbeat_costs_or_delays_that_of_another_host(database: Database, heartbeats: Heartbeats):
    living, deleted, revoked, locked, back, twice = [await online_host(database) for _ in range(6)]
    unknown = ReceivedHeartbeat(HostId.new(), uuid.uuid4(), HostHeartbeat())
    for statement, host in (
        ("UPDATE hosts SET deleted_at = now() WHERE id = :id", deleted),
        ("UPDATE host_refresh_tokens SET revoked_at = now() WHERE host_id = :id", revoked),
        ("UPDATE hosts SET status = 'unreachable' WHERE id = :id", back),
    ):
        await database.execute(text(statement), {"id": host.host_id.value})
    ends, may_end = asyncio.Event(), asyncio.Event()

    async def lock(tx: Transaction) -> None:
        await tx.execute(text("SELECT 1 FROM hosts WHERE id = :id FOR UPDATE"), {"id": locked.host_id.value})
        ends.set()
        await may_end.wait()

    locking = asyncio.create_task(database.transaction(lock))
    await ends.wait()
    waits = asyncio.create_task(heartbeats.record(locked))
    stored = await asyncio.gather(
        *map(heartbeats.record, [deleted, revoked, unknown, back, twice, twice, living]),
        return_exceptions=True,
    )
    assert [type(each) for each in stored[:3]] == [HostDeleted, Unauthorized, NotFound]
    assert not any(isinstance(each, BaseException) for each in stored[3:]), stored[3:]
    assert not waits.done()
    may_end.set()
    await locking
    assert await waits is not None
    for host in (living, locked, back, twice):
        row = await row_of(database, host)
        assert (row.is_heard, row.status, row.inventory) == (True, "online", host.token_id.hex)
    assert not (await row_of(database, deleted)).is_heard
    assert not (await row_of(database, revoked)).is_heard


async def test_the_first_use_of_a_newer_token_revokes_those_before(
    database: Database, heartbeats: Heartbeats
):
    before = await online_host(database)
    token_id = uuid.uuid4()
    await database.execute(
        text(
            "INSERT INTO host_refresh_tokens (id, host_id, token_hash, expires_at)"
            " VALUES (:id, :host, :hash, now() + interval '1 day')"
        ),
        {"id": token_id, "host": before.host_id.value, "hash": token_id.hex},
    )
    await heartbeats.record(before)
    await heartbeats.record(ReceivedHeartbeat(before.host_id, token_id, HostHeartbeat()))
    with pytest.raises(Unauthorized):
        await heartbeats.record(before)


async def test_without_database_every_heartbeat_fails_and_later_ones_do_not(database_url: str):
    away = Database("postgresql://nobody@127.0.0.1:1/none")
    heartbeats = Heartbeats(away)
    received = [ReceivedHeartbeat(HostId.new(), uuid.uuid4(), HostHeartbeat()) for _ in range(3)]
    for _ in range(2):
        failed = await asyncio.gather(*map(heartbeats.record, received), return_exceptions=True)
        assert {type(each) for each in failed} == {DatabaseUnavailable}
    await heartbeats.close()
    await away.close()


async def test_one_read_of_all_hosts_serves_several_loops_until_it_is_old_or_forgotten(database: Database):
    first = await online_host(database)
    hosts = RecentHosts(database, interval_s=0.6)
    reads = await asyncio.gather(*(hosts.read() for _ in range(3)))
    assert all(read is reads[0] for read in reads)
    assert [host.host_id for host in reads[0]] == [first.host_id]
    second = await online_host(database)
    assert await hosts.read() is reads[0]
    hosts.forget()
    assert {host.host_id for host in await hosts.read()} == {first.host_id, second.host_id}
    third = await online_host(database)
    await asyncio.sleep(0.5)
    assert third.host_id in {host.host_id for host in await hosts.read()}
