"""A row that every request waits for: the same as by SQLAlchemy, whatever happens to the connection."""

from __future__ import annotations

import asyncio
import uuid
from datetime import UTC, datetime
from typing import Any

import pytest
from sqlalchemy import Uuid, bindparam, func, literal, literal_column, select, text
from sqlalchemy.dialects.postgresql import JSONB

from wrenn.base.errors import DatabaseUnavailable
from wrenn.control.db import Database, RowQuery, Transaction
from wrenn.control.identity import team_api_keys as keys

from .conftest import DEADLINE_S, make_team, run_sql

ID = uuid.uuid4()
SLEEP = RowQuery(select(func.pg_sleep(bindparam("seconds")).label("slept")))


async def test_a_row_is_the_same_as_by_sqlalchemy(database: Database):
    query = RowQuery(
        select(
            bindparam("id", type_=Uuid).label("id"),
            literal_column("'{\"a\": [1]}'::jsonb", JSONB).label("json"),
            literal_column("NULL", JSONB).label("nothing"),
            literal(datetime(2026, 1, 2, tzinfo=UTC)).label("time"),
        )
    )
    found = await database.find(query, id=ID)
    row: Any = (await database.execute(query.statement, {"id": ID})).one()
    assert vars(found) == dict(row._mapping)
    assert vars(found) == {"id": ID, "json": {"a": [1]}, "nothing": None, "time": row.time}


async def test_no_row_is_none(database: Database, database_url: str):
    await make_team(database_url, "ada")
    query = RowQuery(select(keys.c.id).where(keys.c.key_hash == bindparam("key_hash")))
    assert await database.find(query, key_hash="unknown") is None


async def test_a_cancelled_caller_leaves_the_connection_usable(database: Database):
    for _ in range(40):  # more than the pool holds
        task = asyncio.create_task(database.find(SLEEP, seconds=0.05))
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    async with asyncio.timeout(DEADLINE_S):
        assert await database.find(SLEEP, seconds=0) is not None


async def test_a_connection_that_the_server_closed_is_replaced(database: Database, database_url: str):
    await database.find(SLEEP, seconds=0)
    await run_sql(
        database_url,
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
        "WHERE datname = current_database() AND pid <> pg_backend_pid()",
    )
    assert await database.find(SLEEP, seconds=0) is not None


async def test_a_missing_server_is_reported_as_such():
    nowhere = Database("postgresql://postgres@127.0.0.1:1/wrenn")
    with pytest.raises(DatabaseUnavailable):
        await nowhere.find(SLEEP, seconds=0)
    await nowhere.close()


@pytest.mark.parametrize("is_lost", [False, True])
async def test_rows_in_a_transaction_fail_as_those_of_any_statement(
    database: Database, database_url: str, is_lost: bool
):
    async def wait(tx: Transaction) -> None:
        assert [row.slept for row in await Database.find_all(tx, SLEEP, seconds=0.0)] == [None]
        await tx.execute(text("SET LOCAL statement_timeout = '50ms'"))
        if is_lost:
            pid = (await tx.execute(text("SELECT pg_backend_pid()"))).scalar_one()
            await run_sql(database_url, f"SELECT pg_terminate_backend({pid})")
        await Database.find_all(tx, SLEEP, seconds=5.0)

    with pytest.raises(DatabaseUnavailable):
        await database.transaction(wait)
    assert await database.find(SLEEP, seconds=0.0) is not None
