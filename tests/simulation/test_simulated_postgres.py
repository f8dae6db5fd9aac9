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
_LOCK = "SELECT pg_advisory_xact_lock(1)"
# Who waits for such a lock gets it in turn; who of two waits for one row first is not said.
_SLOW = f"WITH held AS MATERIALIZED ({_LOCK}) SELECT pg_sleep(0.2) FROM held"


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
        transaction = first.transaction()
        await transaction.start()
        await first.execute(_LOCK)
        async with asyncio.timeout(1), asyncio.TaskGroup() as group:
            group.create_task(execute("slow", slow, _SLOW))
            await asyncio.sleep(0.1)
            group.create_task(execute("last", last, _LOCK))
            await asyncio.sleep(0.1)
            assert answered == []
            await transaction.commit()
        for connection in (last, slow, first):
            await connection.close()

    with server.copy() as database:
        fleet.open_postgres(server.socket, server.user, database)
        try:
            virtual_time.run(main, fleet.new_loop)
        finally:
            fleet.close()
    assert sorted(answered) == ["last", "slow"]
