"""PostgreSQL: migrations, its absence, the embedded server's life."""

from __future__ import annotations

import asyncio
import os
import signal
from dataclasses import replace
from pathlib import Path
from uuid import UUID

import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import Connection, func, select, text
from sqlalchemy.engine import make_url
from sqlalchemy.pool import NullPool

from wrenn.agent.enrolment.credentials import CredentialsFile
from wrenn.base.errors import DatabaseUnavailable, InternalError
from wrenn.base.ids import HostId
from wrenn.base.secrets import Secret
from wrenn.control.db import Database, Transaction, metadata
from wrenn.control.db import migrate as migrations
from wrenn.control.db.connect import create_engine
from wrenn.control.db.embedded import ensure_running, stop
from wrenn.control.db.migrate import NewerSchema, migrate, newest_revision
from wrenn.control.db.upgrade import alembic_config
from wrenn.control.identity import teams, users
from wrenn.control.identity.bootstrap import bootstrap
from wrenn.control.settings import Settings
from wrenn.testing.agent_host import AgentHost

from .conftest import (
    DEADLINE_S,
    environment_of,
    make_team,
    refused,
    run_sql,
    running_platform,
)
from .event_reader import reading
from .postgres_servers import end, postmaster


async def test_the_migrations_make_what_the_tables_say(database_url: str):
    def difference(connection: Connection) -> object:
        return compare_metadata(MigrationContext.configure(connection), metadata)

    engine = create_engine(database_url, poolclass=NullPool)
    async with engine.connect() as connection:
        assert await connection.run_sync(difference) == []


async def test_migrating_again_and_from_many_programs_at_once_is_fine(database_url: str):
    await asyncio.gather(*(migrate(database_url) for _ in range(4)))


async def test_a_migration_does_not_wait_for_ever_for_a_server_that_fell_silent(
    database_url: str, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(migrations, "_ANSWER_TIMEOUT_S", 0.5)
    url = make_url(database_url)

    ended = asyncio.Event()

    async def relay(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, until: bytes) -> None:
        is_silent = False
        while chunk := await reader.read(65_536):
            is_silent = is_silent or until in chunk
            if not is_silent:
                writer.write(chunk)
        writer.close()
        await writer.wait_closed()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        from_server, to_server = await asyncio.open_unix_connection(
            f"{url.query['host']}/.s.PGSQL.{url.port or url.query.get('port', 5432)}"
        )
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(relay(reader, to_server, b"pg_advisory_xact_lock"))
            tasks.create_task(relay(from_server, writer, b"never said"))
        ended.set()

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server, asyncio.timeout(DEADLINE_S):
        host, port = server.sockets[0].getsockname()
        through = url.set(host=host, port=port, query={}).render_as_string(hide_password=False)
        with pytest.raises(DatabaseUnavailable, match="does not answer"):
            await migrate(through)
        await ended.wait()


async def test_a_database_of_a_later_release_is_refused(database_url: str):
    await run_sql(database_url, "UPDATE alembic_version SET version_num = '9999'")
    with pytest.raises(NewerSchema, match="later release"):
        await migrate(database_url)


async def test_bootstrap_makes_one_user_and_one_team_whoever_calls(database: Database, database_url: str):
    keys = await asyncio.gather(*(bootstrap(database_url) for _ in range(4)))
    assert len({key.reveal() for key in keys}) == 4
    for table in (users, teams):
        assert (await database.execute(select(func.count()).select_from(table))).scalar_one() == 1


async def test_a_cancelled_transaction_leaves_no_connection_and_no_lock(database: Database):
    entered = asyncio.Event()

    async def hold(tx: Transaction) -> None:
        await tx.execute(text("SELECT pg_advisory_xact_lock(1)"))
        entered.set()
        await tx.execute(text("SELECT pg_sleep(0.3)"))

    for _ in range(5):
        entered.clear()
        task = asyncio.create_task(database.transaction(hold))
        await entered.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    async with asyncio.timeout(DEADLINE_S):
        await database.transaction(hold)


async def test_the_embedded_server_is_made_once_and_closed_to_others(own_dir: Path, own_url: str):
    pid = postmaster(own_dir)
    assert await asyncio.gather(*(ensure_running(own_dir) for _ in range(4))) == [own_url] * 4
    assert postmaster(own_dir) == pid
    assert (own_dir / "postgres").stat().st_mode & 0o777 == 0o700
    assert os.getsid(pid) != os.getsid(0), "it must not end with the terminal of who started it"


async def test_the_embedded_server_survives_a_kill_with_its_data(own_dir: Path, own_url: str):
    database = Database(own_url)
    await database.execute(text("CREATE TABLE kept (n int)"))
    await database.execute(text("INSERT INTO kept VALUES (7)"))
    await end(own_dir, signal.SIGKILL)
    assert await ensure_running(own_dir) == own_url
    assert (await database.execute(text("SELECT n FROM kept"), repeatable=True)).scalar_one() == 7
    await database.close()


async def test_a_stale_pid_file_that_names_a_living_process_is_no_obstacle(own_dir: Path, own_url: str):
    await stop(own_dir)
    pid_file = own_dir / "postgres/postmaster.pid"
    pid_file.write_text(f"{os.getpid()}\n{own_dir}/postgres\n0\n5432\n{own_dir}/postgres\n\n0 0\nready\n")
    await ensure_running(own_dir)
    assert postmaster(own_dir) != os.getpid()


async def test_a_half_made_server_is_made_anew(own_dir: Path):
    (own_dir / "postgres.new").mkdir()
    (own_dir / "postgres.new/PG_VERSION").write_text("18\n")
    try:
        await ensure_running(own_dir)
    finally:
        await stop(own_dir)


async def test_how_long_a_server_may_take_to_be_made_is_up_to_the_caller(own_dir: Path):
    with pytest.raises(InternalError, match="initdb did not end within 0 s"):
        await ensure_running(own_dir, timeout_s=0.001)
    try:
        await ensure_running(own_dir, timeout_s=120)
    finally:
        await stop(own_dir)


async def test_a_data_folder_with_a_long_name_works(own_dir: Path):
    long = own_dir / ("a" * 90)
    try:
        url = await ensure_running(long)
        database = Database(url)
        assert (await database.execute(text("SELECT 1"))).scalar_one() == 1
        await database.close()
    finally:
        await stop(long)
    # Its socket cannot be below such a folder; nothing of it is left where it was.
    sockets = Path(str(make_url(url).query["host"]))
    assert long not in sockets.parents
    assert not sockets.exists()


async def test_requests_fail_with_an_error_while_postgresql_is_down_and_then_work_again(
    own_dir: Path, own_url: str, pki: Path, data_dir: Path, host: AgentHost
):
    await migrate(own_url)
    key = await make_team(own_url, "ada")
    settings = Settings.from_environment(environment_of(data_dir, own_url))
    async with running_platform(settings, host, key) as platform:
        path = await platform.create()
        await end(own_dir, signal.SIGKILL)
        for answer in (
            await platform.api.get(path),
            await platform.api.post("/v1/sandboxes", json={}),
            await platform.api.post(f"{path}/exec", json={"cmd": "true"}),
        ):
            assert "database" in refused(answer, 503, "database_unavailable")
        assert (await platform.api.get("/health")).status_code == 200
        await ensure_running(own_dir)
        answer = await platform.api.post(f"{path}/exec", json={"cmd": "true"})
        assert answer.json()["exit_code"] == 0
        await platform.create()
        assert len(host.sandbox_ids) == 2
        # A restart between two requests is not noticed at all.
        await stop(own_dir)
        await ensure_running(own_dir)
        assert (await platform.api.get(path)).json()["status"] == "running"
        assert (await platform.api.delete(path)).status_code == 204


async def test_what_is_under_way_when_postgresql_is_restarted_ends_as_if_nothing_had_happened(
    own_dir: Path, own_url: str, pki: Path, data_dir: Path, host: AgentHost
):
    await migrate(own_url)
    key = await make_team(own_url, "ada")
    settings = Settings.from_environment(environment_of(data_dir, own_url))
    async with (
        running_platform(settings, host, key) as platform,
        reading(platform.api, types="sandbox") as events,
    ):
        path = ""
        # SIGINT is the server's fast shutdown, SIGQUIT the immediate one.
        for how in (signal.SIGINT, signal.SIGQUIT, signal.SIGKILL):
            path = await platform.create()
            host.calls.clear()
            held = [
                host.switches.hold.setdefault(call, asyncio.Event())
                for call in ("ensure_sandbox", "pause_sandbox")
            ]
            requests = [platform.api.post("/v1/sandboxes", json={}) for _ in range(3)]
            requests.append(platform.api.post(f"{path}/pause"))
            answers = [asyncio.create_task(request) for request in requests]
            await host.wait_call("ensure_sandbox", count=3)
            await host.wait_call("pause_sandbox")
            await end(own_dir, how)
            # What the host does now cannot be written down, and the callers' waits find no database.
            for event in held:
                event.set()
            host.switches.hold.clear()
            await ensure_running(own_dir)
            assert [(await answer).status_code for answer in answers] == [201, 201, 201, 200]
            # The stream did not end, and tells everything once.
            kinds = [kind for kind, _ in await events.take(9)]
            assert [kinds.count(f"sandbox.{what}") for what in ("created", "running", "paused")] == [4, 4, 1]
        assert len(host.sandbox_ids) == 12
        # A snapshot is no row that its caller waits for: the caller is told that it failed, and nothing of it is left.
        host.switches.hold["ensure_snapshot"] = blocked = asyncio.Event()
        body = {"sandbox_id": path.rpartition("/")[2]}
        answer = asyncio.create_task(platform.api.post("/v1/snapshots", json=body))
        await host.wait_call("ensure_snapshot")
        await end(own_dir, signal.SIGKILL)
        blocked.set()
        refused(await answer, 503, "database_unavailable")
        await ensure_running(own_dir)
        async with asyncio.timeout(DEADLINE_S):
            while host.snapshot_ids:
                await asyncio.sleep(0.05)


async def test_a_server_that_accepts_no_writes_any_more_is_left_for_another(database: Database):
    """As behind an address that moved to a new primary, with connections to the former one still open."""
    await database.execute(text("CREATE TABLE kept (n int)"))
    await database.execute(text("SET default_transaction_read_only = on"))
    await database.execute(text("INSERT INTO kept VALUES (1)"), repeatable=True)
    assert (await database.execute(text("SELECT n FROM kept"))).scalar_one() == 1


async def test_loops_that_wait_for_the_database_leave_requests_their_connections(
    settings: Settings, host: AgentHost, database_url: str
):
    key = await make_team(database_url, "ada")
    async with running_platform(replace(settings, host_interval_s=600.0), host, key) as platform:
        loops_database = platform.control.loops_database
        is_over = asyncio.Event()
        begun = asyncio.Semaphore(0)

        async def hold(tx: Transaction) -> None:
            begun.release()
            await is_over.wait()

        holding = [asyncio.create_task(loops_database.transaction(hold)) for _ in range(8)]
        for _ in holding:
            await begun.acquire()
        with pytest.raises(DatabaseUnavailable):
            await platform.control.monitor.look_once()
        await platform.create()
        is_over.set()
        await asyncio.gather(*holding)
        await platform.control.monitor.look_once()


async def test_a_request_that_waits_too_long_for_a_lock_must_be_retried(database: Database):
    held, go_on = asyncio.Event(), asyncio.Event()

    async def hold(tx: Transaction) -> None:
        await tx.execute(text("SELECT pg_advisory_xact_lock(1)"))
        held.set()
        await go_on.wait()

    async def wait(tx: Transaction) -> None:
        await tx.execute(text("SET LOCAL lock_timeout = '50ms'"))
        await tx.execute(text("SELECT pg_advisory_xact_lock(1)"))

    task = asyncio.create_task(database.transaction(hold))
    await held.wait()
    with pytest.raises(DatabaseUnavailable, match="busy"):
        await database.transaction(wait)
    go_on.set()
    await task


FORMER_HOST = "22222222-2222-2222-2222-222222222222"
FORMER = (
    "INSERT INTO users (id, email, name) VALUES (gen_random_uuid(), 'ada@example.com', 'Ada')",
    "INSERT INTO teams (id, name, slug) VALUES ('11111111-1111-1111-1111-111111111111', 'Ada', 'aaaaaa-bbbbbb')",
    "INSERT INTO users_teams (team_id, user_id, is_default, role) SELECT teams.id, users.id, true, 'owner' FROM teams, users",
    "INSERT INTO team_api_keys (id, team_id, name, key_hash, key_prefix, created_by)"
    " SELECT gen_random_uuid(), teams.id, 'old', :hash, 'wrn_000000', users.id FROM teams, users",
    "INSERT INTO hosts (id, name, address, status, last_seen_at)"
    " VALUES ('22222222-2222-2222-2222-222222222222', 'local', :agent, 'online', now())",
    "INSERT INTO sandboxes (id, team_id, host_id, status, desired, vcpus, memory_mb, disk_size_mb, created_at)"
    " SELECT gen_random_uuid(), '11111111-1111-1111-1111-111111111111', '22222222-2222-2222-2222-222222222222', status,"
    " desired, 1, 512, 5120, now() FROM (VALUES ('paused', 'paused'), ('stopped', 'stopped'), ('error', 'running'),"
    " ('pending', 'running')) AS states (status, desired)",
    "INSERT INTO templates (id, team_id, host_id, name, image, vcpus, memory_mb, sandbox_id, status)"
    " VALUES (gen_random_uuid(), '11111111-1111-1111-1111-111111111111', '22222222-2222-2222-2222-222222222222', 'kept',"
    " 'minimal', 1, 512, gen_random_uuid(), 'ready')",
)


async def test_a_database_that_the_former_version_filled_is_taken_over(
    template_url: str, data_dir: Path, host: AgentHost
):
    """What was there is there, and goes on; nothing of before is told as if it had happened now."""
    key = Secret("wrn_" + "0" * 32)
    name = f"former_{os.getpid()}"
    admin = make_url(template_url).set(database="postgres").render_as_string()
    url = make_url(template_url).set(database=name).render_as_string()
    await run_sql(admin, f"CREATE DATABASE {name}")
    try:
        await upgraded_to(url, "0002")
        database = Database(url)
        for statement in FORMER:
            values = {"hash": key.sha256_hex(), "agent": host.url}
            await database.execute(text(statement), {k: v for k, v in values.items() if f":{k}" in statement})
        await database.close()
        applied = await asyncio.gather(*(migrate(url) for _ in range(3)))
        assert sorted(applied, key=len)[:2] == [[], []], "one of them does it"
        assert max(applied, key=len)[-1] == newest_revision()
        environment = environment_of(data_dir, url) | {
            "WRENN_UNKNOWN_GRACE_S": "600",
            "WRENN_START_RETRY_S": "15",
        }
        settings = Settings.from_environment(environment)
        # A machine without files would be refused as the host of these sandboxes.
        folder = Path(host.environment()["WRENN_DATA_DIR"])
        (folder / "sandboxes/former").mkdir(parents=True)
        CredentialsFile(folder).keep_host_id(str(HostId(UUID(FORMER_HOST))))
        async with running_platform(settings, host, key) as platform:
            assert (await platform.api.get("/v1/audit-logs")).json() == {"items": []}
            paths = {s["status"]: s["id"] for s in (await platform.api.get("/v1/sandboxes")).json()}
            assert "paused" in paths
            await platform.create()
            templates = (await platform.api.get("/v1/snapshots?type=snapshot")).json()
            assert [template["name"] for template in templates] == ["kept"]
            usage = (await platform.api.get("/v1/limits")).json()["usage"]
            assert usage["total_sandboxes"] == 3
            assert (await platform.api.delete(f"/v1/sandboxes/{paths['paused']}")).status_code == 204
            actions = [item["action"] for item in (await platform.api.get("/v1/audit-logs")).json()["items"]]
            assert actions == ["destroy", "create"]
    finally:
        await run_sql(admin, f"DROP DATABASE {name} WITH (FORCE)")


async def upgraded_to(url: str, revision: str) -> None:
    def upgrade(connection: Connection) -> None:
        command.upgrade(alembic_config(connection), revision)

    engine = create_engine(url, poolclass=NullPool)
    async with engine.connect() as connection:
        await connection.run_sync(upgrade)
        await connection.commit()
    await engine.dispose()
