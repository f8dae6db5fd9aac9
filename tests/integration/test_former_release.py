"""The former release and this one work together: an upgrade step by step, with sandboxes that live through it. Takes about 30 s.

The former release is the commit in `former_release.txt`, taken out of the repository by `git archive`. It runs as processes of
their own with this release's dependencies; the guests are simulated, all else is real.
"""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import tarfile
import time
import uuid
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from io import BytesIO
from pathlib import Path
from typing import Any, Final

import pytest
from sqlalchemy.engine import make_url

from wrenn.agent.enrolment import CredentialsFile, PendingRegistration
from wrenn.control.db.migrate import migrate
from wrenn.testing.simulated_agent import AgentProcess, remove_everything

from .conftest import control_process, environment_of, run_sql
from .people import Person, make_admin, sign_up

ROOT: Final = Path(__file__).resolve().parents[2]
COMMIT_FILE: Final = Path(__file__).with_name("former_release.txt")
DEADLINE_S: Final = 60.0


async def until(done: Callable[[], Awaitable[object]]) -> None:
    """Wait until `done` returns something true."""
    async with asyncio.timeout(DEADLINE_S):
        while not await done():
            await asyncio.sleep(0.05)


@pytest.fixture(scope="module")
def former(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The `src` folder of the former release."""
    commit = COMMIT_FILE.read_text().strip()
    archive = subprocess.run(
        ["git", "-C", str(ROOT), "archive", commit, "src"], capture_output=True, check=False
    )
    if archive.returncode:
        if not _has_history():
            pytest.skip("this checkout has no history, which holds the former release")
        pytest.fail(
            f"The commit {commit} of {COMMIT_FILE.name} cannot be read: {archive.stderr.decode().strip()}. "
            "It must be a commit of this branch's history."
        )
    folder = tmp_path_factory.mktemp("former")
    with tarfile.open(fileobj=BytesIO(archive.stdout)) as tar:
        tar.extractall(folder, filter="data")
    source = folder / "src"
    found = subprocess.run(
        [sys.executable, "-c", "import wrenn; print(wrenn.__file__)"],
        env={"PYTHONPATH": str(source)},
        capture_output=True,
        check=True,
    )
    assert Path(found.stdout.decode().strip()).is_relative_to(source), (
        "the former release is what is imported"
    )
    return source


def _has_history() -> bool:
    """Whether this checkout has more than its newest commit: a clone with --depth has not."""
    found = subprocess.run(
        ["git", "-C", str(ROOT), "rev-list", "--count", "--max-count=2", "HEAD"],
        capture_output=True,
        check=False,
    )
    return found.stdout.strip() == b"2"


@dataclass
class Upgrade:
    """One control plane at one port, and one agent on one data folder, each of either release."""

    environment: dict[str, str]
    database_url: str
    port: int
    agent: AgentProcess
    root: Person | None = None
    host_path: str = ""

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @asynccontextmanager
    async def control(self, source: Path | None = None) -> AsyncGenerator[None]:
        """A control plane of this release, or of the one in `source`."""
        async with control_process(self.environment, self.port, source=source):
            yield

    @asynccontextmanager
    async def replica_of_this_release(self, port: int) -> AsyncGenerator[Upgrade]:
        """The same platform by a replica of this release, beside the one of the former release."""
        beside = replace(self, port=port)
        beside.root = replace(self.admin, url=beside.url)
        async with control_process(self.environment, port):
            yield beside

    @asynccontextmanager
    async def running_agent(self, source: Path | None = None) -> AsyncGenerator[None]:
        """An agent of this release, or of the one in `source`; it is stopped as by a service manager."""
        await self.agent.start(source=source)
        try:
            yield
        finally:
            await self.agent.stop()

    @property
    def admin(self) -> Person:
        assert self.root is not None, "the first step makes the admin"
        return self.root

    async def call(self, method: str, path: str, json: Any = None) -> Any:
        """A call that succeeds."""
        answer = await self.admin.call(method, path, json)
        assert answer.is_success, (method, path, answer.text)
        return answer.json() if answer.content else None

    async def begin(self) -> None:
        """An admin, and a host that waits for its agent."""
        self.root = await sign_up(self.url)
        await make_admin(self.database_url, self.root)
        made = await self.call("POST", "/v1/hosts", {"type": "regular", "name": "one"})
        self.host_path = f"/v1/hosts/{made['host']['id']}"
        PendingRegistration(self.url, made["registration_token"]).save(self.agent.data_dir)

    async def wait_reached(self) -> None:
        """Until a sandbox can be placed on the host."""

        async def placed() -> object:
            answer = await self.admin.post("/v1/sandboxes")
            if answer.status_code == 201:
                await self.call("DELETE", f"/v1/sandboxes/{answer.json()['id']}")
            return answer.status_code == 201

        await until(placed)

    async def create(self, **body: object) -> str:
        return f"/v1/sandboxes/{(await self.call('POST', '/v1/sandboxes', body))['id']}"

    async def exec(self, sandbox: str) -> None:
        async def ran() -> object:
            answer = await self.admin.post(f"{sandbox}/exec", {"cmd": "echo", "args": ["said"]})
            # The monitor may not have seen yet that the agent is back.
            return answer.status_code == 200 and answer.json()["stdout"] == "said\n"

        await until(ran)

    async def goes_on_at(self, other: Upgrade) -> None:
        """Each step of a sandbox's life by another replica than the one before."""
        sandbox = await self.create(memory_mb=128)
        await other.exec(sandbox)
        await other.call("POST", f"{sandbox}/pause", {})
        await self.call("POST", f"{sandbox}/resume", {})
        await other.exec(sandbox)
        name = f"kept-{uuid.uuid4().hex[:8]}"
        await other.call("POST", "/v1/snapshots", {"sandbox_id": sandbox.rpartition("/")[2], "name": name})
        copy = await self.create(template=name)
        await other.exec(copy)
        for path in (sandbox, copy, f"/v1/snapshots/{name}"):
            await other.call("DELETE", path)

    async def exercise(self) -> None:
        """Everything that control plane and agent say to each other."""
        sandbox = await self.create(memory_mb=128)
        await self.exec(sandbox)
        await self.call("POST", f"{sandbox}/pause", {})
        await self.call("POST", f"{sandbox}/resume", {})
        await self.exec(sandbox)
        name = f"kept-{uuid.uuid4().hex[:8]}"
        await self.call("POST", "/v1/snapshots", {"sandbox_id": sandbox.rpartition("/")[2], "name": name})
        copy = await self.create(template=name)
        await self.exec(copy)
        for path in (sandbox, copy):
            await self.call("DELETE", path)
        await self.call("DELETE", f"/v1/snapshots/{name}")
        await self._is_heard()
        await self._renews()

    async def _is_heard(self) -> None:
        await run_sql(self.database_url, "UPDATE hosts SET last_heartbeat_at = NULL")

        async def heard() -> object:
            shown = await self.call("GET", self.host_path)
            return shown["status"] == "online" and "last_heartbeat_at" in shown

        await until(heard)

    async def _renews(self) -> None:
        file = CredentialsFile(self.agent.data_dir).path
        former = json.loads(file.read_text())
        # As if two thirds of the life of the certificate were over; an agent reads the file before each heartbeat.
        scratch = file.with_suffix(".test")
        scratch.write_text(json.dumps(former | {"expires_at_unix": time.time() + 60, "issued_at_unix": 0}))
        scratch.rename(file)

        async def changed() -> object:
            return json.loads(file.read_text())["cert_pem"] != former["cert_pem"]

        await until(changed)


@pytest.fixture
async def upgrade(
    tmp_path: Path, data_dir: Path, pki: Path, template_url: str, unused_tcp_port: int
) -> AsyncIterator[Upgrade]:
    name = f"test_{uuid.uuid4().hex}"
    admin_url = make_url(template_url).set(database="postgres").render_as_string()
    # Empty: the former release makes its own schema.
    await run_sql(admin_url, f"CREATE DATABASE {name}")
    database_url = make_url(template_url).set(database=name).render_as_string()
    upgrade = Upgrade(
        environment_of(data_dir, database_url),
        database_url,
        unused_tcp_port,
        AgentProcess(tmp_path / "agent"),
    )
    try:
        yield upgrade
    finally:
        await upgrade.agent.kill()
        await remove_everything(upgrade.agent.data_dir)
        await run_sql(admin_url, f"DROP DATABASE {name} WITH (FORCE)")


@pytest.mark.timeout(300)
async def test_an_upgrade_and_the_way_back_of_the_agent(
    upgrade: Upgrade, former: Path, unused_tcp_port_factory: Callable[[], int]
) -> None:
    async with upgrade.control(former):
        await upgrade.begin()
        async with upgrade.running_agent(former):
            await upgrade.wait_reached()
            lives, paused = await upgrade.create(), await upgrade.create()
            await upgrade.call("POST", f"{paused}/pause", {})
        # The new agent goes on with the sandboxes of the old one, at the old control plane.
        async with upgrade.running_agent():
            await upgrade.exec(lives)
            await upgrade.exercise()
            # `wrenn control migrate` of this release: the replica of the former one that runs goes on.
            await migrate(upgrade.database_url)
            await upgrade.exec(await upgrade.create())
            # Replicas of both releases on one database, as while one after the other is restarted.
            async with upgrade.replica_of_this_release(unused_tcp_port_factory()) as new:
                await new.exec(lives)
                await new.goes_on_at(upgrade)
                await upgrade.goes_on_at(new)
    # The control plane of this release, and the agent of the former one: not upgraded yet, or again.
    async with upgrade.control():
        async with upgrade.running_agent(former):
            await upgrade.exec(lives)
            await upgrade.exercise()
        async with upgrade.running_agent():
            await upgrade.exec(lives)
            await upgrade.call("POST", f"{paused}/resume", {})
            await upgrade.exec(paused)
            assert (await upgrade.call("GET", upgrade.host_path))["status"] == "online"
