"""Due work is leased once, and no more of it than asked for. Rows in PostgreSQL, no agents. About 1 s."""

from __future__ import annotations

import asyncio
from collections import Counter

from sqlalchemy import text
from sqlalchemy.engine import make_url

from wrenn.control.db import Database
from wrenn.control.sandboxes.reconcile.places import OF_A_TEAM_ON_A_HOST, find_move_slots, find_slots
from wrenn.control.sandboxes.reconcile.work_store import Busy, WorkSlots, take_due
from wrenn.control.sandboxes.records import Work

from .conftest import run_sql

SANDBOXES = 60
LIMIT = 7
TAKERS = 4


async def insert_due(database: Database) -> None:
    for statement in (
        "INSERT INTO teams (id, name, slug) VALUES (gen_random_uuid(), 'team', 'team')",
        "INSERT INTO hosts (id, name, address) VALUES (gen_random_uuid(), 'host', 'https://127.0.0.1:1')",
        "INSERT INTO sandboxes (id, team_id, host_id, vcpus, memory_mb, disk_size_mb, status, desired)"
        " SELECT gen_random_uuid(), teams.id, hosts.id, 1, 128, 5120, 'pending', 'running'"
        f" FROM teams, hosts, generate_series(1, {SANDBOXES})",
    ):
        await database.execute(text(statement))


async def test_concurrent_takers_lease_each_sandbox_once_and_no_more_than_they_ask_for(database_url: str):
    # With these the planner evaluates a subquery for each row of the outer table, as it may at any time.
    name = make_url(database_url).database
    await run_sql(
        database_url,
        *(f"ALTER DATABASE {name} SET {way} = off" for way in ("enable_hashjoin", "enable_mergejoin")),
        *(
            f"ALTER DATABASE {name} SET {way} = off"
            for way in ("enable_hashagg", "enable_material", "enable_sort")
        ),
    )
    database = Database(database_url)
    try:
        await insert_due(database)
        slots = WorkSlots(LIMIT, removals=Busy(), others=Busy())

        async def take_all(owner: str) -> list[object]:
            taken: list[object] = []
            # Those that others hold locked are left out, so that a taker may find none while there are some.
            for _ in range(SANDBOXES):
                batch = await take_due(database, owner=owner, lease_s=600, slots=slots)
                assert len(batch) <= LIMIT
                taken += [work.sandbox_id for work in batch]
            return taken

        taken = await asyncio.gather(*(take_all(f"taker {number}") for number in range(TAKERS)))
        ids = [sandbox_id for each in taken for sandbox_id in each]
        assert len(ids) == len(set(ids)) == SANDBOXES
    finally:
        await database.close()


async def test_moves_take_no_place_of_other_work_and_a_host_is_part_of_only_some(database_url: str):
    database = Database(database_url)
    try:
        await insert_due(database)
        await database.execute(
            text(
                "INSERT INTO hosts (id, name, address)"
                " SELECT gen_random_uuid(), 'target' || n, 'https://127.0.0.1:2' FROM generate_series(1, 3) AS n"
            )
        )
        await database.execute(
            text(
                "UPDATE sandboxes SET status = 'paused', desired = 'paused',"
                " move_host_id = (SELECT id FROM hosts WHERE name = 'target1')"
                f" WHERE id IN (SELECT id FROM sandboxes LIMIT {SANDBOXES - 1})"
            )
        )
        others = WorkSlots(64, removals=Busy(), others=Busy())
        assert [work.is_move for work in await take_due(database, owner="a", lease_s=600, slots=others)] == [
            False
        ]
        moves: list[Work] = []
        while (free := find_move_slots(moves)).limit:
            taken = await take_due(database, owner="a", lease_s=600, slots=free)
            if not taken:
                break
            moves += taken
        assert len(moves) == 4, "of one source and one target"
        assert all(work.is_move for work in moves)
    finally:
        await database.close()


async def test_a_team_on_a_stuck_host_leaves_places_to_another_team_and_to_another_host(database_url: str):
    database = Database(database_url)
    try:
        await insert_due(database)
        # Whatever is due later finds the others waiting, and their calls never end.
        for statement in (
            "INSERT INTO teams (id, name, slug) VALUES (gen_random_uuid(), 'other', 'other')",
            "INSERT INTO hosts (id, name, address) VALUES (gen_random_uuid(), 'other', 'https://127.0.0.1:2')",
            "INSERT INTO sandboxes (id, team_id, host_id, vcpus, memory_mb, disk_size_mb, next_attempt_at)"
            " SELECT gen_random_uuid(), teams.id, hosts.id, 1, 128, 5120, now() + interval '1 s'"
            " FROM teams, hosts WHERE teams.name = 'other' OR hosts.name = 'other'",
            "UPDATE sandboxes SET next_attempt_at = next_attempt_at - interval '1 h'",
        ):
            await database.execute(text(statement))
        calls: list[Work] = []
        while (free := find_slots(calls)).limit:
            taken = await take_due(database, owner="a", lease_s=600, slots=free)
            calls += taken
            if len(taken) < free.limit:
                break
        on_hosts = Counter((str(work.host.address), work.team_id) for work in calls)
        assert len(on_hosts) == 4, "each team on each host"
        assert OF_A_TEAM_ON_A_HOST <= max(on_hosts.values()) < OF_A_TEAM_ON_A_HOST + 8
    finally:
        await database.close()
