"""A `DATABASE_URL` that names two PostgreSQL servers: the standby takes over, and the platform goes on without a restart."""

from __future__ import annotations

import asyncio
import os
import signal
from pathlib import Path

import pytest
from sqlalchemy import text

from wrenn.base.errors import DatabaseUnavailable
from wrenn.control.db import Database
from wrenn.control.db.migrate import migrate
from wrenn.control.settings import Settings
from wrenn.testing.agent_host import AgentHost

from .conftest import DEADLINE_S, environment_of, make_team, running_platform
from .event_reader import reading
from .postgres_servers import end, processes, standby_of


async def backends(database: Database) -> set[int]:
    """The server processes of four connections at once."""
    query = text("SELECT pg_backend_pid() FROM pg_sleep(0.05)")
    found = await asyncio.gather(*(database.execute(query, repeatable=True) for _ in range(4)))
    return {result.scalar_one() for result in found}


async def a_silent_server_is_given_up(url: str, primary: Path) -> None:
    """A machine that lost its power says nothing, nor does a server that is stopped."""
    database = Database(url, answer_timeout_s=0.5)
    before = await backends(database)
    frozen = processes(primary)
    for pid in frozen:
        os.kill(pid, signal.SIGSTOP)
    try:
        async with asyncio.timeout(DEADLINE_S):
            with pytest.raises(DatabaseUnavailable):
                await database.execute(text("SELECT 1"))
    finally:
        for pid in frozen:
            os.kill(pid, signal.SIGCONT)
    # Those that were open and unused were given up with the one that failed: none will be waited for again.
    assert not before & await backends(database)
    await database.close()


async def test_the_platform_goes_on_when_the_primary_is_killed_and_the_standby_is_promoted(
    own_dir: Path, own_url: str, pki: Path, data_dir: Path, host: AgentHost
):
    async with standby_of(own_dir) as standby:
        await migrate(standby.url)
        key = await make_team(standby.url, "ada")
        # What is lost in a failover is a matter of the replication; here nothing may be.
        admin = Database(own_url)
        await admin.execute(text("ALTER SYSTEM SET synchronous_standby_names = '*'"))
        await admin.execute(text("SELECT pg_reload_conf()"))
        await admin.close()
        await a_silent_server_is_given_up(standby.url, own_dir)
        settings = Settings.from_environment(environment_of(data_dir, standby.url))
        async with (
            running_platform(settings, host, key) as platform,
            reading(platform.api, types="sandbox") as events,
        ):
            path = await platform.create()
            host.calls.clear()
            host.switches.hold["ensure_sandbox"] = held = asyncio.Event()
            creates = [asyncio.create_task(platform.api.post("/v1/sandboxes", json={})) for _ in range(3)]
            await host.wait_call("ensure_sandbox", count=3)
            await end(own_dir, signal.SIGKILL)
            held.set()
            # Until the promotion there is only a server that accepts no writes.
            assert (await platform.api.get(path)).status_code == 503
            await standby.promote()
            assert [(await create).status_code for create in creates] == [201] * 3
            assert (await platform.api.post(f"{path}/pause")).status_code == 200
            kinds = [kind for kind, _ in await events.take(9)]
            assert [kinds.count(f"sandbox.{what}") for what in ("created", "running", "paused")] == [4, 4, 1]
            assert len(host.sandbox_ids) == 4
