"""PostgreSQL in virtual time: what is answered when does not depend on how fast the server is."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import asyncpg

from tests.simulation.database import Server
from wrenn.testing import virtual_time
from wrenn.testing.simulation.fleet import Fleet

_driver: Any = asyncpg  # has no types
_SLOW_UPDATE = "WITH updated AS (UPDATE numbers SET n = n + 1 RETURNING n) SELECT pg_sleep(0.2) FROM updated"


def test_statements_that_wait_for_each_other_are_answered_as_soon_as_they_can_be(server: Server) -> None:
    fleet = Fleet(1)
    answered: list[str] = []

    async def main() -> None:
        async def connect() -> Any:
            socket = Path(server.socket)
            return await _driver.connect(host=str(socket.parent), user=server.user, database=database)

        async def execute(name: str, connection: Any, sql: str) -> None:
            await connection.execute(sql)
            answered.append(name)

        last, slow, first = [await connect() for _ in range(3)]
        await first.execute("CREATE TABLE numbers AS SELECT 1 AS n")
        transaction = first.transaction()
        await transaction.start()
        await first.execute("UPDATE numbers SET n = 2")
        async with asyncio.timeout(1), asyncio.TaskGroup() as group:
            group.create_task(execute("slow", slow, _SLOW_UPDATE))
            await asyncio.sleep(0.1)
            group.create_task(execute("last", last, "UPDATE numbers SET n = n * 10"))
            await asyncio.sleep(0.1)
            assert answered == []
            await transaction.commit()
        assert await first.fetchval("SELECT n FROM numbers") == 30
        for connection in (last, slow, first):
            await connection.close()

    with server.copy() as database:
        fleet.open_postgres(server.socket, server.user, database)
        try:
            virtual_time.run(main, fleet.new_loop)
        finally:
            fleet.close()
    assert sorted(answered) == ["last", "slow"]
