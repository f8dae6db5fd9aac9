"""A real PostgreSQL, a real agent over the simulated driver behind real mutual TLS, and the control plane over loopback."""

from __future__ import annotations

import asyncio
import itertools
import os
import shutil
import tempfile
import uuid
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import asyncpg
import httpx2
import pytest
import pytest_asyncio
import uvicorn
from sqlalchemy import text
from sqlalchemy.engine import make_url

from wrenn.agent.machine import measure
from wrenn.base.clock import Clock
from wrenn.base.secrets import Secret
from wrenn.control.db import Database, Transaction
from wrenn.control.db.embedded import ensure_running, stop
from wrenn.control.db.migrate import migrate
from wrenn.control.hosts.pki import ensure_pki
from wrenn.control.identity import insert_key
from wrenn.control.identity import store as teams
from wrenn.control.settings import Settings
from wrenn.control.wiring import Control, running_control
from wrenn.relay import SERVER_OPTIONS
from wrenn.testing.agent_host import AgentHost, RpcFaults, agent_host
from wrenn.testing.fork_server import ForkedProgram, start_program
from wrenn.testing.server import served
from wrenn.vm.simulated import SimulatedDriver

from .postgres_servers import copy_server, postgres_folder

if TYPE_CHECKING:
    from .people import People

DEADLINE_S = 30.0
_driver: Any = asyncpg  # has no types
_numbers = itertools.count()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip what the simulated driver cannot do."""
    skip_without_capability(items, Path(__file__).parent)


def skip_without_capability(items: list[pytest.Item], folder: Path) -> None:
    """Skip the tests below this folder that need a capability which the simulated driver lacks."""
    for item in items:
        needed = [name for marker in item.iter_markers("needs") for name in marker.args]
        for name in needed:
            if item.path.is_relative_to(folder) and not getattr(SimulatedDriver.capabilities, name):
                item.add_marker(
                    pytest.mark.skip(reason=f"capability {name} of drivers: simulated has it not")
                )


@pytest.fixture(scope="session")
def data_dir() -> Iterator[Path]:
    """A folder that PostgreSQL's user can reach, which pytest's own are not."""
    folder = Path(tempfile.mkdtemp(prefix="wrenn-test-"))
    folder.chmod(0o711)
    yield folder
    asyncio.run(stop(folder))
    shutil.rmtree(folder)


@pytest.fixture(scope="session")
def template_url(data_dir: Path) -> str:
    """A database with all migrations, to be copied."""

    async def prepare() -> str:
        url = await ensure_running(data_dir)
        await migrate(url)
        # The machine does not lose its power during a test.
        settings = ("fsync = off", "full_page_writes = off")
        await run_sql(
            url, *(f"ALTER SYSTEM SET {setting}" for setting in settings), "SELECT pg_reload_conf()"
        )
        return url

    return asyncio.run(prepare())


async def run_sql(url: str, *statements: str) -> None:
    """Statements outside any transaction."""
    connection = await _driver.connect(url)
    try:
        for statement in statements:
            await connection.execute(statement)
    finally:
        await connection.close()


@asynccontextmanager
async def row_locked(url: str, query: str) -> AsyncGenerator[Callable[[int], Awaitable[None]]]:
    """Lock the rows of this query meanwhile. The function waits until this many transactions of the database wait for locks."""
    holder, watcher = await _driver.connect(url), await _driver.connect(url)

    async def wait_blocked(count: int) -> None:
        blocked = "SELECT count(*) AS count FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
        async with asyncio.timeout(DEADLINE_S):
            while (await watcher.fetch(blocked))[0]["count"] < count:
                await asyncio.sleep(0.02)

    try:
        async with holder.transaction():
            await holder.execute(f"{query} FOR UPDATE")
            yield wait_blocked
    finally:
        await holder.close()
        await watcher.close()


@asynccontextmanager
async def own_database(template_url: str) -> AsyncGenerator[str]:
    """A copy of the database with all migrations."""
    name = f"test_{uuid.uuid4().hex}"
    admin = make_url(template_url).set(database="postgres").render_as_string()
    # Copying files takes less than writing a log of all pages.
    await run_sql(admin, f"CREATE DATABASE {name} TEMPLATE wrenn STRATEGY FILE_COPY")
    try:
        yield make_url(template_url).set(database=name).render_as_string()
    finally:
        await run_sql(admin, f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture
async def database_url(template_url: str) -> AsyncIterator[str]:
    """A database of the test's own."""
    async with own_database(template_url) as url:
        yield url


@pytest.fixture
async def database(database_url: str) -> AsyncIterator[Database]:
    database = Database(database_url)
    yield database
    await database.close()


@pytest.fixture
def own_dir() -> Iterator[Path]:
    """A folder for a PostgreSQL of the test's own."""
    with postgres_folder() as folder:
        yield folder


@pytest.fixture(scope="session")
def made_server() -> Iterator[Path]:
    """A folder with a PostgreSQL that does not run, to be copied."""

    async def make(folder: Path) -> None:
        # The machine does not lose its power during a test.
        await run_sql(await ensure_running(folder), "ALTER SYSTEM SET fsync = off")
        await stop(folder)

    with postgres_folder() as folder:
        asyncio.run(make(folder))
        yield folder


@pytest.fixture
async def own_url(own_dir: Path, made_server: Path) -> AsyncIterator[str]:
    """The URL of a PostgreSQL of the test's own, which may be stopped and killed."""
    copy_server(made_server, own_dir)
    yield await ensure_running(own_dir)
    await stop(own_dir)


@pytest.fixture(scope="session")
def pki(data_dir: Path) -> Path:
    ensure_pki(data_dir / "pki")
    return data_dir / "pki"


@pytest.fixture
async def host(tmp_path: Path) -> AsyncIterator[AgentHost]:
    """The host of the test's platform, which it joins when that runs."""
    async with agent_host(tmp_path / "agent") as host:
        yield host


@pytest.fixture
def settings(data_dir: Path, pki: Path, database_url: str) -> Settings:
    return Settings.from_environment(environment_of(data_dir, database_url))


def environment_of(data_dir: Path, database_url: str) -> dict[str, str]:
    """Settings with short times, so that tests need not wait for loops."""
    return {
        "DATABASE_URL": database_url,
        "WRENN_DATA_DIR": str(data_dir),
        "WRENN_HOST_INTERVAL_S": "0.2",
        "WRENN_LEASE_S": "1.6",
        "WRENN_UNKNOWN_GRACE_S": "0.5",
        "WRENN_MISSING_AFTER_S": "0.5",
        "WRENN_START_RETRY_S": "3",
        "WRENN_START_TIMEOUT_S": "20",
        # All tests come from one address, and some try many wrong credentials.
        "WRENN_RATE_FAILURES_PER_ADDRESS": "0",
        "WRENN_RATE_PER_ADDRESS": "0",
    }


async def make_team(database_url: str, name: str) -> Secret:
    """A user with a team, and a key of it."""

    async def make(tx: Transaction) -> Secret:
        user_id = await teams.ensure_user(tx, email=f"{name}@example.com", name=name, is_admin=False)
        team_id = await teams.ensure_default_team(tx, user_id, name=name)
        return await insert_key(tx, team_id=team_id, created_by=user_id, name="test")

    database = Database(database_url)
    try:
        return await database.transaction(make)
    finally:
        await database.close()


@dataclass
class ControlPlane:
    """A control plane that serves. `api` has the key of the team `ada`."""

    api: httpx2.AsyncClient
    url: str
    key: Secret
    control: Control
    settings: Settings

    async def create(self, **body: object) -> str:
        """The URL path of a new sandbox."""
        answer = await self.api.post("/v1/sandboxes", json=body)
        assert answer.status_code == 201, answer.text
        return f"/v1/sandboxes/{answer.json()['id']}"

    async def other_team(self, name: str = "eve") -> Secret:
        """The key of another team."""
        return await make_team(str(self.settings.database_url), name)

    async def wait_status(self, path: str, status: str) -> dict[str, object]:
        """The sandbox, once it has this status."""
        async with asyncio.timeout(DEADLINE_S):
            while (found := (await self.api.get(path)).json())["status"] != status:
                await asyncio.sleep(0.05)
        return found


@dataclass
class Platform(ControlPlane):
    """A control plane with its host."""

    host: AgentHost


def with_memory(settings: Settings, memory_b: int) -> Settings:
    """So much may be promised, on whatever machine this is."""
    return replace(settings, memory_overcommit=memory_b / measure(settings.data_dir).memory_b)


def client(url: str, key: Secret | None) -> httpx2.AsyncClient:
    """A plain HTTP client of the API."""
    headers = {"X-API-Key": key.reveal()} if key is not None else {}
    # There is no TLS here, and reading the machine's certificates takes 40 ms.
    return httpx2.AsyncClient(base_url=url, headers=headers, timeout=40, trust_env=False, verify=False)


@asynccontextmanager
async def running_control_plane(
    settings: Settings, key: Secret, *, clock: Clock | None = None
) -> AsyncGenerator[ControlPlane]:
    """The control plane in this process, served on loopback."""
    async with AsyncExitStack() as stack:
        control = await stack.enter_async_context(running_control(settings, clock=clock))
        config = uvicorn.Config(
            control.app,
            host="127.0.0.1",
            port=0,
            timeout_graceful_shutdown=1,
            **SERVER_OPTIONS,
        )
        port = await stack.enter_async_context(served(config, control.begin_shutdown))
        url = f"http://127.0.0.1:{port}"
        api = await stack.enter_async_context(client(url, key))
        yield ControlPlane(api, url, key, control, settings)


@asynccontextmanager
async def running_platform(
    settings: Settings, host: AgentHost, key: Secret, *, clock: Clock | None = None
) -> AsyncGenerator[Platform]:
    """The same with a host."""
    async with running_control_plane(settings, key, clock=clock) as control:
        await host.join(control.url, str(settings.database_url))
        await control.control.monitor.look_once()
        yield Platform(**vars(control), host=host)


@pytest.fixture
async def own_platform(settings: Settings, host: AgentHost, database_url: str) -> AsyncIterator[Platform]:
    """A platform of the test's own."""
    key = await make_team(database_url, "ada")
    async with running_platform(settings, host, key) as platform:
        yield platform


@pytest.fixture
def platform(own_platform: Platform) -> Platform:
    """The platform of a test: its own, unless the module replaces this by `team_platform`."""
    return own_platform


_SHARED_LEASE_S: Final = 15.0
"""Of platforms that a module shares, whose replicas are not killed: a shorter lease runs out on a busy machine, and the other replica
makes the same calls again."""
BUILDS_LEASE_S: Final = 3.0
"""For modules in which attempts of builds fail: the next one begins when the lease has run out. They have no other replica."""


@asynccontextmanager
async def platform_on_a_database_of_its_own(
    data_dir: Path,
    pki: Path,
    template_url: str,
    agent_dir: Path,
    *,
    host_interval_s: float | None = None,
    lease_s: float = _SHARED_LEASE_S,
) -> AsyncGenerator[Platform]:
    """For fixtures of a whole module."""
    async with AsyncExitStack() as stack:
        url = await stack.enter_async_context(own_database(template_url))
        host = await stack.enter_async_context(agent_host(agent_dir))
        settings = replace(Settings.from_environment(environment_of(data_dir, url)), lease_s=lease_s)
        if host_interval_s is not None:
            settings = replace(settings, host_interval_s=host_interval_s)
        key = await make_team(url, "ada")
        yield await stack.enter_async_context(running_platform(settings, host, key))


@pytest.fixture(scope="module")
def lease_of_module_s() -> float:
    """The lease of `platform_of_module`; modules may replace this."""
    return _SHARED_LEASE_S


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def platform_of_module(
    data_dir: Path,
    pki: Path,
    template_url: str,
    tmp_path_factory: pytest.TempPathFactory,
    lease_of_module_s: float,
) -> AsyncIterator[Platform]:
    agent_dir = tmp_path_factory.mktemp("host") / "agent"
    async with platform_on_a_database_of_its_own(
        data_dir, pki, template_url, agent_dir, lease_s=lease_of_module_s
    ) as platform:
        yield platform


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def database_of_module(platform_of_module: Platform) -> AsyncIterator[Database]:
    """Connections to the database of the module's platform."""
    database = Database(str(platform_of_module.settings.database_url))
    yield database
    await database.close()


@asynccontextmanager
async def platform_for_a_team(shared: Platform) -> AsyncGenerator[Platform]:
    """A platform that tests share, with the key of a team that only one has. It is emptied at the end.

    For tests that change nothing which others have too (settings, hosts, other teams), and look at nothing of others.
    """
    shared.host.calls.clear()
    shared.host.broken_off.clear()
    key = await make_team(str(shared.settings.database_url), f"team{next(_numbers)}")
    try:
        async with client(shared.url, key) as api:
            yield replace(shared, api=api, key=key)
    finally:
        await empty(shared)


async def empty(platform: Platform) -> None:
    """Remove all sandboxes and snapshots, of whatever team, and what makes calls fail."""
    for held in platform.host.switches.hold.values():
        held.set()
    platform.host.switches = RpcFaults()
    platform.host.answer_again()
    live = "status NOT IN ('stopped', 'error')"
    database = platform.control.database
    await database.execute(
        text(
            "UPDATE sandboxes SET desired = 'stopped', version = version + 1, lease_owner = NULL, lease_until = NULL,"
            f" next_attempt_at = now() WHERE {live}"
        )
    )
    await database.execute(text("UPDATE templates SET status = 'removing' WHERE type = 'snapshot'"))
    platform.control.reconciler.wake()
    # It may have been silent.
    await platform.control.monitor.look_once()
    left = text(
        f"SELECT (SELECT count(*) FROM sandboxes WHERE {live}) + (SELECT count(*) FROM templates WHERE type = 'snapshot')"
    )
    async with asyncio.timeout(DEADLINE_S):
        while (
            (await database.execute(left)).scalar_one()
            or platform.host.sandbox_ids
            or platform.host.snapshot_ids
        ):
            await platform.control.sweep.sweep_once()
            await platform.control.comparison.compare_once()
            await asyncio.sleep(0.02)


@pytest_asyncio.fixture(loop_scope="module")
async def team_platform(platform_of_module: Platform) -> AsyncIterator[Platform]:
    """The module's platform for a test with a team of its own."""
    async with platform_for_a_team(platform_of_module) as platform:
        yield platform


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def replica_of_module(platform_of_module: Platform) -> AsyncIterator[Platform]:
    """A second replica of the module's platform."""
    shared = platform_of_module
    async with running_platform(replace(shared.settings), shared.host, shared.key) as second:
        yield second


@pytest_asyncio.fixture(loop_scope="module")
async def team_replica(replica_of_module: Platform, team_platform: Platform) -> AsyncIterator[Platform]:
    """The second replica, with the key of the test's team."""
    async with client(replica_of_module.url, team_platform.key) as api:
        yield replace(replica_of_module, api=api, key=team_platform.key)


@pytest.fixture
async def second_platform(platform: Platform) -> AsyncIterator[Platform]:
    """A second replica on the same database."""
    async with running_platform(replace(platform.settings), platform.host, platform.key) as second:
        yield second


@asynccontextmanager
async def control_process(
    environment: dict[str, str], port: int, host: AgentHost | None = None, *, source: Path | None = None
) -> AsyncGenerator[ForkedProgram]:
    """`wrenn control` as a separate process, which the host has joined; killed at the end if it still runs.

    `source`: as of `start_program`.
    """
    process = start_program(
        "wrenn.control.main:main",
        environment={**os.environ, **environment, "WRENN_LISTEN": f"127.0.0.1:{port}"},
        source=source,
    )
    try:
        async with asyncio.timeout(DEADLINE_S), client(f"http://127.0.0.1:{port}", None) as probe:
            while True:
                try:
                    await probe.get("/health")
                    break
                except httpx2.TransportError:
                    assert process.poll() is None, "the control plane did not start"
                    await asyncio.sleep(0.05)
        if host is not None:
            await host.join(f"http://127.0.0.1:{port}", environment["DATABASE_URL"])
        yield process
    finally:
        process.kill()
        await process.wait_ended()


def refused(answer: httpx2.Response, status: int, code: str) -> str:
    """Check the platform's error shape and return the message."""
    assert answer.status_code == status, answer.text
    assert answer.headers["x-request-id"]
    error = answer.json()["error"]
    assert set(answer.json()) == {"error"}
    assert error["code"] == code
    assert error["message"]
    return error["message"]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def people(
    data_dir: Path, pki: Path, template_url: str, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[People]:
    """A platform of a whole module, whose tests make users of their own, and a second replica of it."""
    from .people import People

    agent_dir = tmp_path_factory.mktemp("host") / "agent"
    async with platform_on_a_database_of_its_own(data_dir, pki, template_url, agent_dir) as first:
        async with running_platform(first.settings, first.host, first.key) as second:
            yield People(first, second, str(first.settings.database_url))


@pytest_asyncio.fixture(loop_scope="module")
async def people_database(people: People) -> AsyncIterator[Database]:
    database = Database(people.database_url)
    yield database
    await database.close()


@pytest_asyncio.fixture(loop_scope="module")
async def forget_attempts(people: People) -> None:
    """All tests come from one address, whose tries add up."""
    await run_sql(people.database_url, "DELETE FROM attempts")
