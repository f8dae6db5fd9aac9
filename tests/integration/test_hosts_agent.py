"""A real agent as a separate process: its registration, the renewal of its credentials, and its end. Takes about 15 s."""

from __future__ import annotations

import asyncio
import json
import os
import ssl
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select, update

from wrenn.agent.enrolment import CredentialsFile, PendingRegistration, register
from wrenn.agent.settings import Settings as AgentSettings
from wrenn.base.faults import arm_faults
from wrenn.base.ids import HostId
from wrenn.control.db import Database
from wrenn.control.fleet import issue_local_token
from wrenn.control.hosts import hosts
from wrenn.control.settings import Settings
from wrenn.testing.enrolment import issue_credentials
from wrenn.testing.simulated_agent import AgentProcess, remove_everything

from .conftest import DEADLINE_S, ControlPlane, make_team, running_control_plane


@pytest.fixture
async def control(settings: Settings, database_url: str) -> AsyncIterator[ControlPlane]:
    async with running_control_plane(settings, await make_team(database_url, "ada")) as control:
        yield control


@dataclass
class Enrolled:
    """An agent that registers at `control`."""

    process: AgentProcess
    control: ControlPlane
    database: Database

    @property
    def file(self) -> CredentialsFile:
        return CredentialsFile(self.process.data_dir)

    @property
    def content(self) -> dict[str, Any]:
        return json.loads(self.file.path.read_text())

    async def leave_token(self) -> HostId:
        host_id, token = await issue_local_token(str(self.control.settings.database_url), name="one")
        PendingRegistration(self.control.url, token.reveal()).save(self.process.data_dir)
        return host_id

    async def row(self) -> Any:
        return (await self.database.execute(select(hosts).where(hosts.c.name == "one"))).one()

    async def sandboxes(self) -> list[str]:
        answer = await self.control.api.get("/v1/sandboxes")
        assert answer.status_code == 200, answer.text
        return [each["status"] for each in answer.json()]

    async def wait_runs(self) -> None:
        """Until the control plane knows that the sandbox runs."""

        async def runs() -> object:
            return await self.sandboxes() == ["running"]

        await self.wait(runs)

    async def wait(self, done: Callable[[], Awaitable[object]]) -> None:
        async with asyncio.timeout(DEADLINE_S):
            while not await done():
                await asyncio.sleep(0.05)

    async def wait_heard(self) -> None:
        """Until a heartbeat comes that was sent from now on."""
        await self.database.execute(update(hosts).values(last_heartbeat_at=None))

        async def heard() -> object:
            return (await self.row()).last_heartbeat_at

        await self.wait(heard)

    def expire_soon(self) -> None:
        """As if two thirds of the life of the certificate were over."""
        self.file.path.write_text(
            json.dumps(self.content | {"expires_at_unix": time.time() + 60, "issued_at_unix": 0})
        )


@pytest.fixture
async def enrolled(tmp_path: Path, control: ControlPlane, database: Database) -> AsyncIterator[Enrolled]:
    process = AgentProcess(tmp_path / "agent")
    yield Enrolled(process, control, database)
    await process.kill()
    await remove_everything(process.data_dir)


async def request_without_certificate(port: int, context: ssl.SSLContext, server_name: str) -> None:
    reader, writer = await asyncio.open_connection(
        "127.0.0.1", port, ssl=context, server_hostname=server_name
    )
    try:
        writer.write(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        await reader.readuntil(b"\r\n")
    finally:
        writer.transport.abort()


async def test_a_first_start_registers_and_the_key_stays_on_the_host(enrolled: Enrolled) -> None:
    host_id = await enrolled.leave_token()
    await enrolled.process.start()
    await enrolled.wait_heard()
    row = await enrolled.row()
    assert (row.status, row.id) == ("online", host_id.value)
    assert row.address == enrolled.process.url
    content = enrolled.content
    assert enrolled.file.path.stat().st_mode & 0o777 == 0o600
    assert PendingRegistration.load(enrolled.process.data_dir) is None
    assert "PRIVATE KEY" in content["key_pem"]
    for secret in (content["key_pem"].splitlines()[1], content["token"], content["refresh_token"]):
        assert secret not in enrolled.process.log.read_text()
    assert "PRIVATE" not in str(row)
    # Nobody without a certificate of the control plane gets in.
    context = ssl.create_default_context(cadata=content["ca_cert_pem"])
    port = int(enrolled.process.address.rpartition(":")[2])
    with pytest.raises((ssl.SSLError, ConnectionError, asyncio.IncompleteReadError)):
        await request_without_certificate(port, context, str(host_id))


async def test_without_a_registration_it_says_what_to_do(enrolled: Enrolled) -> None:
    enrolled.process.begin()
    assert await enrolled.process.wait_ended() == os.EX_CONFIG
    assert "wrenn agent join" in enrolled.process.log.read_text()


async def test_a_wrong_token_ends_it_and_is_not_tried_again(enrolled: Enrolled) -> None:
    PendingRegistration(enrolled.control.url, "0" * 64).save(enrolled.process.data_dir)
    enrolled.process.begin()
    assert await enrolled.process.wait_ended() == 1
    assert "registration token" in enrolled.process.log.read_text()
    assert PendingRegistration.load(enrolled.process.data_dir) is None
    assert enrolled.file.load() is None


async def test_killed_after_the_answer_to_its_registration_it_registers_with_a_new_token(
    enrolled: Enrolled,
) -> None:
    host_id = await enrolled.leave_token()
    enrolled.process.begin(faults="agent.register.after_answer=kill")
    await enrolled.process.wait_killed()
    enrolled.process.begin()
    assert await enrolled.process.wait_ended() == 1, "the token was used"
    assert await enrolled.leave_token() == host_id
    await enrolled.process.start()
    await enrolled.wait_heard()
    assert enrolled.content["host_id"] == str(host_id)


async def test_credentials_that_cannot_be_stored_cost_a_running_agent_nothing(enrolled: Enrolled) -> None:
    """Those of a registration that is repeated while it runs: the disk is full, or `wrenn agent join` is killed."""
    await enrolled.leave_token()
    await enrolled.process.start()
    await enrolled.wait_heard()
    former = enrolled.content
    _, token = await issue_local_token(str(enrolled.control.settings.database_url), name="one")
    arm_faults("agent.register.after_answer=enospc")
    with pytest.raises(OSError, match="No space"):
        await register(
            enrolled.control.url,
            token.reveal(),
            AgentSettings.from_environment(enrolled.process.environment()),
        )
    await enrolled.wait_heard()
    assert enrolled.content == former
    enrolled.expire_soon()

    async def renewed() -> object:
        return enrolled.content["cert_pem"] != former["cert_pem"]

    await enrolled.wait(renewed)
    await enrolled.wait_heard()


@pytest.mark.parametrize("point", ["after_answer", "after_save"])
async def test_killed_during_a_renewal_it_goes_on_with_what_it_has(enrolled: Enrolled, point: str) -> None:
    host_id = await enrolled.leave_token()
    await enrolled.process.start()
    await enrolled.wait_heard()
    await enrolled.process.stop()
    former = enrolled.content
    enrolled.expire_soon()
    enrolled.process.begin(faults=f"agent.refresh.{point}=kill")
    await enrolled.process.wait_killed()
    assert (enrolled.content["cert_pem"] == former["cert_pem"]) is (point == "after_answer")
    await enrolled.process.start()
    await enrolled.wait_heard()
    now = enrolled.content
    assert now["host_id"] == str(host_id)
    assert now["cert_pem"] != former["cert_pem"]
    assert now["key_pem"] != former["key_pem"]


async def test_credentials_that_are_not_accepted_cost_no_sandbox(enrolled: Enrolled) -> None:
    """A control plane that does not know the host, for instance after it was restored from a backup."""
    await enrolled.leave_token()
    await enrolled.process.start()
    await enrolled.wait_heard()

    async def create() -> str:
        answer = await enrolled.control.api.post("/v1/sandboxes", json={})
        assert answer.status_code == 201, answer.text
        return answer.json()["id"]

    await create()
    await enrolled.process.stop()
    content = enrolled.content
    enrolled.file.path.write_text(
        json.dumps(content | {"host_id": str(HostId.new()), "token": "none", "refresh_token": "0" * 64})
    )
    await enrolled.process.start()

    async def refused() -> object:
        return "register it again" in enrolled.process.log.read_text()

    await enrolled.wait(refused)
    assert list((enrolled.process.data_dir / "sandboxes").iterdir())
    # A new registration while it runs is taken up without a restart.
    enrolled.file.path.write_text(json.dumps(content))


@pytest.mark.parametrize("lost", [(), ("credentials.json",), ("credentials.json", "host.json")])
async def test_a_token_of_another_host_ends_it_and_stays_valid(
    enrolled: Enrolled, lost: tuple[str, ...]
) -> None:
    """Its sandboxes would be unknown under that host, and removed."""
    host_id = await enrolled.leave_token()
    await enrolled.process.start()
    await enrolled.wait_heard()
    assert (await enrolled.control.api.post("/v1/sandboxes", json={})).status_code == 201
    await enrolled.process.stop()
    before = enrolled.content
    for name in lost:
        (enrolled.process.data_dir / name).unlink()
    _, token = await issue_local_token(str(enrolled.control.settings.database_url), name="two")
    PendingRegistration(enrolled.control.url, token.reveal()).save(enrolled.process.data_dir)
    enrolled.process.begin()
    assert await enrolled.process.wait_ended() == 1
    assert PendingRegistration.load(enrolled.process.data_dir) is None
    assert enrolled.file.path.exists() is not bool(lost)
    said = enrolled.process.log.read_text().splitlines()[-1]
    assert "host.json" in said if "host.json" in lost else before["host_id"] in said
    assert list((enrolled.process.data_dir / "sandboxes").iterdir())
    # With a token of its own host it goes on, and so does its sandbox.
    if "host.json" in lost:
        enrolled.file.keep_host_id(str(host_id))
    assert await enrolled.leave_token() == host_id
    await enrolled.process.start()
    await enrolled.wait_heard()
    await enrolled.wait_runs()


async def test_an_empty_machine_does_not_become_a_host_that_has_sandboxes(enrolled: Enrolled) -> None:
    """They would be recorded as lost, while the machine that has them may only be switched off."""
    host_id = await enrolled.leave_token()
    await enrolled.process.start()
    await enrolled.wait_heard()
    assert (await enrolled.control.api.post("/v1/sandboxes", json={})).status_code == 201
    other = AgentProcess(enrolled.process.data_dir.with_name("other"))
    _, token = await issue_local_token(str(enrolled.control.settings.database_url), name="one")
    PendingRegistration(enrolled.control.url, token.reveal()).save(other.data_dir)
    other.begin()
    assert await other.wait_ended() == 1
    assert f"Host {host_id} has 1 sandboxes" in other.log.read_text()
    await enrolled.wait_heard()
    await enrolled.wait_runs()
    assert (await enrolled.row()).address == enrolled.process.url


async def test_a_deleted_host_takes_only_its_own_credentials_with_it(tmp_path: Path) -> None:
    """The machine may have joined as another host while the former agent was removing everything."""
    deleted = issue_credentials(tmp_path, tmp_path / "pki", "127.0.0.1:1")
    file = CredentialsFile(tmp_path)
    joined = issue_credentials(tmp_path, tmp_path / "pki", "127.0.0.1:1")
    file.remove(str(deleted.host_id))
    assert file.host_id() == str(joined.host_id)
    file.remove(str(joined.host_id))
    assert (file.load(), file.host_id()) == (None, None)


async def test_damaged_credentials_are_replaced_by_a_registration_as_the_same_host(
    enrolled: Enrolled,
) -> None:
    host_id = await enrolled.leave_token()
    await enrolled.process.start()
    await enrolled.wait_heard()
    assert (await enrolled.control.api.post("/v1/sandboxes", json={})).status_code == 201
    await enrolled.process.stop()
    enrolled.file.path.write_text("{")
    enrolled.process.begin()
    assert await enrolled.process.wait_ended() == 1
    assert "wrenn hosts token HOST" in enrolled.process.log.read_text()
    assert await enrolled.leave_token() == host_id
    await enrolled.process.start()
    await enrolled.wait_heard()
    await enrolled.wait_runs()


async def test_a_second_agent_on_the_data_folder_ends(enrolled: Enrolled) -> None:
    await enrolled.leave_token()
    await enrolled.process.start()
    second = AgentProcess(enrolled.process.data_dir)
    second.begin()
    assert await second.wait_ended() == 1
    assert "Another agent already runs" in enrolled.process.log.read_text()
    await enrolled.wait_heard()


async def test_a_second_agent_on_the_data_folder_does_not_register(enrolled: Enrolled) -> None:
    """It would replace the credentials of the first, and name an address at which nobody listens then."""
    await enrolled.leave_token()
    await enrolled.process.start()
    await enrolled.wait_heard()
    before = enrolled.content
    await enrolled.leave_token()
    second = AgentProcess(enrolled.process.data_dir)
    second.begin()
    assert await second.wait_ended() == 1
    assert enrolled.content == before
    assert (await enrolled.row()).address == enrolled.process.url
    assert PendingRegistration.load(enrolled.process.data_dir) is not None, "the token was not used"
    await enrolled.wait_heard()
