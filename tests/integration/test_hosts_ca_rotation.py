"""The internal CA: its rotation while everything runs, and replicas that do not fit together. Takes about 15 s."""

from __future__ import annotations

import asyncio
import os
import shutil
from collections.abc import AsyncIterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest
from cryptography import x509
from sqlalchemy import text

from wrenn.agent.enrolment import CredentialsFile, PendingRegistration
from wrenn.base.errors import Conflict, InvalidState
from wrenn.base.faults import FaultInjected, arm_faults
from wrenn.control.db import Database
from wrenn.control.db.migrate import newest_revision
from wrenn.control.fleet import issue_local_token
from wrenn.control.hosts import ca_store
from wrenn.control.hosts.ca_rollout import CaRollout, Change
from wrenn.control.hosts.pki import ensure_pki
from wrenn.control.hosts.rotation import CaRotation, Step
from wrenn.control.settings import Settings
from wrenn.control.wiring import running_control
from wrenn.testing.fork_server import run_program
from wrenn.testing.simulated_agent import AgentProcess, remove_everything

from .conftest import DEADLINE_S, ControlPlane, environment_of, make_team, run_sql, running_control_plane


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A data folder of the test's own: others share theirs, and its CA."""
    return tmp_path / "control"


@pytest.fixture
async def control(folder: Path, database_url: str) -> AsyncIterator[ControlPlane]:
    settings = Settings.from_environment(environment_of(folder, database_url))
    async with running_control_plane(settings, await make_team(database_url, "ada")) as control:
        yield control


@pytest.fixture
async def agents(tmp_path: Path) -> AsyncIterator[list[AgentProcess]]:
    agents = [AgentProcess(tmp_path / name) for name in ("one", "two")]
    yield agents
    for agent in agents:
        await agent.kill()
        await remove_everything(agent.data_dir)


async def join(control: ControlPlane, agent: AgentProcess) -> None:
    name = agent.data_dir.name
    _, token = await issue_local_token(str(control.settings.database_url), name=name)
    PendingRegistration(control.url, token.reveal()).save(agent.data_dir)
    await agent.start()
    async with asyncio.timeout(DEADLINE_S):
        while not any(host["name"] == name and host["status"] == "online" for host in await hosts(control)):
            await asyncio.sleep(0.05)


async def hosts(control: ControlPlane) -> list[dict[str, str]]:
    rows = await ca_store.cas_of_hosts(control.control.database)
    return [{"name": row.name, "status": row.status.value} for row in rows]


def trusted_by(agent: AgentProcess) -> set[bytes]:
    credentials = CredentialsFile(agent.data_dir).load()
    assert credentials is not None
    found = x509.load_pem_x509_certificates(credentials.ca_cert_pem.encode())
    return {certificate.tbs_certificate_bytes for certificate in found}


class Calls:
    """Calls that go on all the time."""

    def __init__(self, control: ControlPlane, path: str) -> None:
        self.count = 0
        self._control = control
        self._path = path
        self._task = asyncio.create_task(self._run())

    async def _run(self) -> None:
        while True:
            answer = await self._control.api.post(f"{self._path}/exec", json={"cmd": "true"})
            assert answer.status_code == 200, answer.text
            assert answer.json()["exit_code"] == 0
            self.count += 1

    async def end(self) -> int:
        if self._task.done():
            self._task.result()
        self._task.cancel()
        await asyncio.wait([self._task])
        return self.count


async def test_a_rotation_fails_no_call_and_may_be_interrupted_at_each_step(
    control: ControlPlane, agents: list[AgentProcess], folder: Path
):
    one, two = agents
    for agent in agents:
        await join(control, agent)
    await control.control.monitor.look_once()
    former = trusted_by(one)
    # A host that is offline during all of it.
    await two.kill()
    # A heartbeat that it sent before may be stored up to a quarter of a second later.
    async with asyncio.timeout(DEADLINE_S):
        while not any(host == {"name": "two", "status": "unreachable"} for host in await hosts(control)):
            await control.control.database.execute(
                text("UPDATE hosts SET status = 'unreachable' WHERE name = 'two'")
            )
            await asyncio.sleep(0.5)
    path = await control.create()
    calls = Calls(control, path)
    rollout = CaRollout(control.control.database, CaRotation(folder / "pki", None))
    changes: list[Change] = []
    for point in (
        "rotation.begin.after_key",
        "rotation.begin.after_trusted",
        "rotation.switch.after_key",
        "rotation.finish.after_trusted",
        "",
    ):
        arm_faults(f"{point}=error" if point else "")
        with suppress(FaultInjected):
            changes.append(await rollout.advance(again=point.startswith("rotation.begin")))
        # What replicas do at an interval.
        await control.control.renewal.renew_once()
        await control.control.replica.report_once()
        async with asyncio.timeout(DEADLINE_S):
            while (status := await rollout.status()).waiting:
                await asyncio.sleep(0.05)
        if status.step is Step.NEW_SIGNS:
            assert [host.name for host in status.offline] == ["two"]
    assert changes == [Change.ENDED], "all others were interrupted"
    assert await calls.end() > 3
    with pytest.raises(InvalidState, match="--again"):
        await rollout.advance()
    assert (await rollout.status()).step is Step.NONE
    assert not list((folder / "pki").glob("ca-next*"))
    async with asyncio.timeout(DEADLINE_S):
        while len(trusted_by(one)) != 1:
            await asyncio.sleep(0.05)
    assert not trusted_by(one) & former
    # The host that was offline takes the new CA by itself.
    await two.start()
    async with asyncio.timeout(DEADLINE_S):
        while trusted_by(two) != trusted_by(one):
            await asyncio.sleep(0.05)
    await control.control.monitor.look_once()
    assert (await control.api.post(f"{path}/exec", json={"cmd": "true"})).status_code == 200


async def test_with_a_ca_in_the_settings_the_command_says_what_to_set_and_shows_no_key(
    tmp_path: Path, database_url: str
):
    former = ensure_pki(tmp_path / "former")
    files = {"WRENN_CA_CERT": tmp_path / "former/ca.pem", "WRENN_CA_KEY": tmp_path / "former/ca.key"}
    environment = {
        "PATH": os.environ["PATH"], "DATABASE_URL": database_url, "WRENN_DATA_DIR": str(tmp_path / "data"),
        **{name: path.read_text() for name, path in files.items()},
    }  # fmt: skip

    async def rotate(*options: str, code: int) -> str:
        arguments = ("admin", "rotate-ca", "--wait", "0", "--folder", str(tmp_path / "stays"), *options)
        async with asyncio.timeout(60):
            ended, out, err = await run_program("wrenn.cli.main:main", arguments, environment=environment)
        assert ended == code, err.decode()
        assert b"PRIVATE" not in out + err
        return err.decode()

    written = tmp_path / "stays/rotation"
    # The question does not migrate the database of a former release.
    await run_sql(database_url, "UPDATE alembic_version SET version_num = '0001'")
    assert "start a replica" in await rotate("--status", code=1)
    await run_sql(database_url, f"UPDATE alembic_version SET version_num = '{newest_revision()}'")
    # Its CA is new, so that it must be told that this is no repetition of a rotation that has ended.
    steps = (("WRENN_CA_CERT", "ca.pem"), ("WRENN_CA_KEY", "ca.key"), ("WRENN_CA_CERT", "ca.pem"))
    for name, file in steps:
        said = await rotate("--again", code=5)
        assert f"Set {name} to the content of {written / file}" in said
        assert (written / file).stat().st_mode & 0o777 == 0o600
        environment[name] = (written / file).read_text()
    assert "has ended" in await rotate(code=0)
    assert not written.exists()
    assert "Rotation: none" in await rotate("--status", code=0)
    assert former.trusted_pem not in environment["WRENN_CA_CERT"]


async def test_a_replica_with_another_ca_or_another_secret_does_not_start(
    folder: Path, database_url: str, tmp_path: Path
):
    settings = Settings.from_environment(environment_of(folder, database_url))
    async with running_control(settings):
        pass
    # It has ended, and is remembered.
    other_ca = tmp_path / "other_ca"
    ensure_pki(other_ca / "pki")
    shutil.copy(folder / "jwt.secret", other_ca / "jwt.secret")
    with pytest.raises(Conflict, match="rotate-ca"):
        async with running_control(replace(settings, data_dir=other_ca)):
            pass
    other_secret = tmp_path / "other_secret"
    shutil.copytree(folder / "pki", other_secret / "pki")
    with pytest.raises(Conflict, match="WRENN_JWT_SECRET"):
        async with running_control(replace(settings, data_dir=other_secret)):
            pass
    # During a rotation each step fits to the one before.
    rotation = CaRotation(folder / "pki", None)
    for change in (rotation.begin, rotation.switch, rotation.finish):
        await change()
        async with running_control(settings):
            pass
    # Whoever lost a secret says so.
    database = Database(database_url)
    await ca_store.forget(database)
    await database.close()
    async with running_control(replace(settings, data_dir=other_ca)):
        pass
