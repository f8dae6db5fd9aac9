"""Sandboxes are moved between two hosts; whatever fails, each is on one of them. Two of the points where the control plane is killed run in `make test`, about 60 s in all."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import httpx2
import pytest
from sqlalchemy import select, update

from tests.agent.kit import assert_nothing_left
from tests.held_points import held_points
from wrenn.agent.enrolment import CredentialsFile
from wrenn.agent.sandboxes import State
from wrenn.base.errors import InternalError, NoCapacity, Unavailable, WrennError
from wrenn.base.faults import arm_faults
from wrenn.base.ids import HostId, SandboxId
from wrenn.control.db import Database
from wrenn.control.hosts import DrainPolicy, all_hosts, drain_store
from wrenn.control.quotas import Limits
from wrenn.control.sandboxes.operations import drain_store as drained
from wrenn.control.sandboxes.operations.placement_store import host_loads
from wrenn.control.sandboxes.tables import sandboxes
from wrenn.control.settings import Settings
from wrenn.testing.agent_host import AgentHost, agent_host

from .conftest import (
    ControlPlane,
    client,
    control_process,
    environment_of,
    make_team,
    refused,
    run_sql,
    running_control_plane,
)
from .people import make_admin, sign_up
from .test_control_crash import died
from .test_control_quotas import set_limits

_c = sandboxes.c
DEADLINE_S = 30.0
PAUSE = {"pause": True}


@dataclass
class Fleet:
    plane: ControlPlane
    hosts: tuple[AgentHost, AgentHost]
    tmp_path: Path

    async def created(self, **body: object) -> str:
        """The id of a new sandbox with a file."""
        path = await self.plane.create(**body)
        answer = await self.plane.api.post(
            f"{path}/exec", json={"cmd": "sh", "args": ["-c", "echo held >/root/held"]}
        )
        assert answer.status_code == 200, answer.text
        return path.rsplit("/", 1)[-1]

    async def paused(self) -> str:
        sandbox_id = await self.created()
        answer = await self.post(sandbox_id, "pause")
        assert answer.status_code == 200, answer.text
        return sandbox_id

    async def created_on(self, host: AgentHost, **body: object) -> str:
        """The id of a new sandbox with a file on this host, which alone has the tag `special`."""
        host_id = await self.id_of(host)
        answer = f"INSERT INTO host_tags (host_id, tag) VALUES ('{host_id.value}', 'special') ON CONFLICT DO NOTHING"
        await run_sql(str(self.plane.settings.database_url), answer)
        while True:
            sandbox_id = await self.created(**body)
            if sandbox_id in host.sandbox_ids:
                return sandbox_id

    async def id_of(self, host: AgentHost) -> HostId:
        """The id of a host."""
        credentials = CredentialsFile(host.agent.layout.data_dir).load()
        assert credentials is not None
        return HostId.parse(credentials.host_id)

    async def post(self, sandbox_id: str, action: str, **body: object):
        return await self.plane.api.post(f"/v1/sandboxes/{sandbox_id}/{action}", json=body or None)

    async def move(self, sandbox_id: str, **body: object):
        return await self.plane.api.post(f"/v1/sandboxes/{sandbox_id}/move", json=body)

    def place_of(self, sandbox_id: str) -> AgentHost:
        """The one host that has it."""
        (host,) = [host for host in self.hosts if sandbox_id in host.sandbox_ids]
        return host

    def other_than(self, host: AgentHost) -> AgentHost:
        return next(each for each in self.hosts if each is not host)

    async def settled(self, sandbox_id: str) -> AgentHost:
        """The one host that has it, once no copy is left elsewhere."""
        async with asyncio.timeout(DEADLINE_S):
            while sum(sandbox_id in host.sandbox_ids for host in self.hosts) != 1:
                await asyncio.sleep(0.05)
        return self.place_of(sandbox_id)

    async def assert_usable(self, sandbox_id: str) -> None:
        """It is on one host, runs there once it is asked to, and has its file."""
        await self.settled(sandbox_id)
        async with asyncio.timeout(DEADLINE_S):
            while True:
                found = (await self.plane.api.get(f"/v1/sandboxes/{sandbox_id}")).json()
                if found["status"] == "running":
                    break
                answer = await self.post(sandbox_id, "resume")
                assert answer.status_code in (200, 409), answer.text
                await asyncio.sleep(0.1)
        answer = await self.post(sandbox_id, "exec", cmd="cat", args=["/root/held"])
        assert answer.json().get("stdout") == "held\n", answer.text

    async def assert_removed(self, sandbox_id: str) -> None:
        """After its removal neither host has anything of it."""
        answer = await self.plane.api.delete(f"/v1/sandboxes/{sandbox_id}")
        assert answer.status_code == 204, answer.text
        async with asyncio.timeout(DEADLINE_S):
            while any(sandbox_id in host.sandbox_ids for host in self.hosts):
                await asyncio.sleep(0.05)
        for host in self.hosts:
            await assert_nothing_left(host.agent)


@pytest.fixture
def start_retry_s(request: pytest.FixtureRequest) -> str:
    """How long a host that does not answer is asked again."""
    return getattr(request, "param", "3")


gives_up_soon = pytest.mark.parametrize("start_retry_s", ["0.5"], indirect=True)
"""For tests in which a host stays silent."""


@pytest.fixture
async def fleet(
    data_dir: Path, pki: Path, database_url: str, tmp_path: Path, start_retry_s: str
) -> AsyncIterator[Fleet]:
    environment = {
        **environment_of(data_dir, database_url),
        "WRENN_STORE": (tmp_path / "store").as_uri(),
        "WRENN_LEASE_S": "5",
        "WRENN_START_RETRY_S": start_retry_s,
    }
    key = await make_team(database_url, "ada")
    async with (
        agent_host(tmp_path / "a") as first,
        agent_host(tmp_path / "b") as second,
        running_control_plane(Settings.from_environment(environment), key) as plane,
    ):
        await first.join(plane.url, database_url)
        await second.join(plane.url, database_url, name="second")
        await plane.control.monitor.look_once()
        yield Fleet(plane, (first, second), tmp_path)
        arm_faults("")


async def test_a_paused_sandbox_goes_there_and_back_again(fleet: Fleet):
    sandbox_id = await fleet.paused()
    source = fleet.place_of(sandbox_id)
    before = source.record(sandbox_id)
    answer = await fleet.move(sandbox_id)
    assert answer.status_code == 200, answer.text
    assert answer.json()["status"] == "paused"
    target = await fleet.settled(sandbox_id)
    assert target is fleet.other_than(source)
    record = target.record(sandbox_id)
    assert record.state is State.PAUSED
    assert record.spec.generation == before.spec.generation + 1
    assert record.snapshot == before.snapshot
    await assert_nothing_left(source.agent)
    await fleet.assert_usable(sandbox_id)
    answer = await fleet.move(sandbox_id, **PAUSE)
    assert answer.status_code == 200, answer.text
    assert answer.json()["status"] == "running"
    assert await fleet.settled(sandbox_id) is source
    await fleet.assert_usable(sandbox_id)
    await fleet.assert_removed(sandbox_id)
    # With the last sandbox its state goes from the store.
    objects = fleet.plane.control.objects

    async with asyncio.timeout(DEADLINE_S):
        while True:
            await fleet.plane.control.image_sweep.sweep_once()
            left = [
                found.key
                for owner in await objects.folders()
                async for page in objects.pages(owner)
                for found in page
            ]
            if not left:
                break
            await asyncio.sleep(0.1)


async def test_what_cannot_be_moved_is_refused_before_anything_is_sent(fleet: Fleet):
    sandbox_id = await fleet.created()
    source = fleet.place_of(sandbox_id)
    assert "only a paused one" in refused(await fleet.move(sandbox_id), 409, "invalid_state")
    refused(await fleet.move(sandbox_id, host_id="x"), 400, "invalid_request")
    refused(await fleet.move(sandbox_id, unknown=1), 400, "invalid_request")
    missing = "host-" + "0" * 25
    refused(await fleet.move(sandbox_id, host_id=missing, **PAUSE), 403, "forbidden")
    # A host of the platform is not for its users to choose.
    for host in await all_hosts(fleet.plane.control.database):
        answer = await fleet.move(sandbox_id, host_id=str(host.host_id), **PAUSE)
        refused(answer, 403, "forbidden")
    stranger = await fleet.plane.other_team()
    async with client(fleet.plane.url, stranger) as other:
        refused(await other.post(f"/v1/sandboxes/{sandbox_id}/move", json={}), 404, "not_found")
    target = fleet.other_than(source)
    target.vmm = "simulated 2"
    await target.restart()
    await fleet.post(sandbox_id, "pause")
    await fleet.plane.control.monitor.look_once()
    async with asyncio.timeout(DEADLINE_S):
        while True:
            said = refused(await fleet.move(sandbox_id), 503, "no_hosts_available")
            if "VMM" in said:
                break
            await asyncio.sleep(0.1)
    assert "where it is already (1 host)" in said
    assert source.calls["store_sandbox"] == 0
    await fleet.assert_usable(sandbox_id)


@gives_up_soon
@pytest.mark.parametrize("call", ["store_sandbox", "adopt_sandbox"])
@pytest.mark.parametrize("error", [NoCapacity("full"), InternalError("secret"), Unavailable("silent")])
async def test_a_move_that_a_host_refuses_is_taken_back(fleet: Fleet, call: str, error: WrennError):
    sandbox_id = await fleet.created()
    source = fleet.place_of(sandbox_id)
    for host in fleet.hosts:
        host.switches.fail[call] = error
    answer = await fleet.move(sandbox_id, **PAUSE)
    assert answer.status_code in (500, 503), answer.text
    assert "secret" not in answer.text
    # It runs again where it was.
    await fleet.plane.wait_status(f"/v1/sandboxes/{sandbox_id}", "running")
    assert await fleet.settled(sandbox_id) is source
    for host in fleet.hosts:
        host.switches.fail.clear()
    await fleet.assert_usable(sandbox_id)
    answer = await fleet.move(sandbox_id, **PAUSE)
    assert answer.status_code == 200, answer.text
    assert await fleet.settled(sandbox_id) is not source
    await fleet.assert_removed(sandbox_id)


@gives_up_soon
async def test_a_target_that_fails_after_it_got_the_sandbox_gives_it_up(fleet: Fleet):
    sandbox_id = await fleet.paused()
    source = fleet.place_of(sandbox_id)
    target = fleet.other_than(source)
    # It adopts the sandbox, is silent from then on, and is back when the move was taken back long ago.
    target.switches.lose_answer.add("adopt_sandbox")
    target.switches.fail["remove_sandbox"] = Unavailable("silent")
    answer = await fleet.move(sandbox_id)
    assert answer.status_code in (503, 504), answer.text
    assert sandbox_id in target.sandbox_ids
    answer = await fleet.post(sandbox_id, "resume")
    assert answer.status_code == 200, answer.text
    target.switches.lose_answer.clear()
    target.switches.fail.clear()
    assert await fleet.settled(sandbox_id) is source
    await fleet.assert_usable(sandbox_id)
    await assert_nothing_left(target.agent)


@pytest.mark.parametrize("call", ["store_sandbox", "adopt_sandbox"])
async def test_a_sandbox_that_is_being_moved_can_be_deleted_and_nothing_else(fleet: Fleet, call: str):
    sandbox_id = await fleet.paused()
    gates = {host: asyncio.Event() for host in fleet.hosts}
    for host, gate in gates.items():
        host.switches.hold[call] = gate
    moving = asyncio.create_task(fleet.move(sandbox_id))
    source = fleet.place_of(sandbox_id)
    await (source if call == "store_sandbox" else fleet.other_than(source)).wait_call(call)
    for action, body in (("resume", {}), ("pause", {}), ("move", {}), ("fork", {"count": 1})):
        answer = await fleet.plane.api.post(f"/v1/sandboxes/{sandbox_id}/{action}", json=body)
        assert "being moved" in refused(answer, 409, "invalid_state"), action
    answer = await fleet.plane.api.patch(f"/v1/sandboxes/{sandbox_id}/disk", json={"disk_size_mb": 6000})
    refused(answer, 409, "invalid_state")
    answer = await fleet.plane.api.patch(
        f"/v1/sandboxes/{sandbox_id}/network", json={"allow_internet": False}
    )
    refused(answer, 409, "invalid_state")
    answer = await fleet.plane.api.post("/v1/snapshots", json={"sandbox_id": sandbox_id, "name": "x"})
    refused(answer, 409, "invalid_state")
    deleting = asyncio.create_task(fleet.plane.api.delete(f"/v1/sandboxes/{sandbox_id}"))
    await asyncio.sleep(0.3)
    for gate in gates.values():
        gate.set()
    for host in fleet.hosts:
        host.switches.hold.clear()
    assert (await deleting).status_code == 204
    refused(await moving, 409, "invalid_state")
    await fleet.assert_removed(sandbox_id)
    # The transfer is not begun again, for which a call would be repeated after a second.
    await asyncio.sleep(1.5)
    assert [host.calls[call] for host in fleet.hosts if host.calls[call]] == [1]


async def test_a_second_move_that_waited_for_the_first_goes_on_from_its_target(fleet: Fleet):
    """It found the sandbox at the former host, and gets the placement lock after the first one has ended."""
    sandbox_id = await fleet.paused()
    source = fleet.place_of(sandbox_id)
    target = fleet.other_than(source)
    # The first one holds the placement lock while the second one begins.
    with held_points(fleet.tmp_path, "control.move.before_commit") as held:
        first = asyncio.create_task(fleet.move(sandbox_id))
        await held.wait_reached()
        second = asyncio.create_task(fleet.move(sandbox_id))
        await asyncio.sleep(0.5)
        assert not second.done()
    for moving in (first, second):
        answer = await moving
        assert answer.status_code == 200, answer.text
    assert source.calls["adopt_sandbox"] == 1
    assert target.calls["adopt_sandbox"] == 1
    assert await fleet.settled(sandbox_id) is source
    await fleet.assert_usable(sandbox_id)
    await fleet.assert_removed(sandbox_id)


async def test_a_row_that_names_its_own_host_as_the_target_is_put_right(fleet: Fleet):
    sandbox_id = await fleet.paused()
    source = fleet.place_of(sandbox_id)
    database, row = fleet.plane.control.database, SandboxId.parse(sandbox_id).value
    await database.execute(update(sandboxes).where(_c.id == row).values(move_host_id=_c.host_id))
    fleet.plane.control.reconciler.wake()
    async with asyncio.timeout(DEADLINE_S):
        while not (await fleet.plane.api.get(f"/v1/sandboxes/{sandbox_id}")).json()["metadata"].get("reason"):
            await asyncio.sleep(0.1)
    assert source.calls["store_sandbox"] == source.calls["adopt_sandbox"] == 0
    await fleet.assert_usable(sandbox_id)


async def test_what_a_former_release_left_of_a_move_ends_with_the_next_pause(fleet: Fleet):
    """It resumes and pauses a sandbox that is being moved, and knows nothing of that."""
    sandbox_id = await fleet.created()
    source = fleet.place_of(sandbox_id)
    row = SandboxId.parse(sandbox_id).value
    target = await fleet.id_of(fleet.other_than(source))
    await fleet.plane.control.database.execute(
        update(sandboxes).where(_c.id == row).values(move_host_id=target.value)
    )
    answer = await fleet.post(sandbox_id, "pause")
    assert answer.status_code == 200, answer.text
    await asyncio.sleep(0.5)
    assert source.calls["store_sandbox"] == 0
    assert await fleet.settled(sandbox_id) is source
    await fleet.assert_usable(sandbox_id)


async def test_a_sandbox_that_is_paused_for_a_move_keeps_its_share(fleet: Fleet):
    sandbox_id = await fleet.created()
    source = fleet.place_of(sandbox_id)
    await set_limits(fleet.plane, Limits(running_sandboxes=1))
    source.switches.hold["store_sandbox"] = gate = asyncio.Event()
    moving = asyncio.create_task(fleet.move(sandbox_id, **PAUSE))
    await source.wait_call("store_sandbox")
    refused(await fleet.plane.api.post("/v1/sandboxes", json={}), 409, "quota_exceeded")
    explained = await fleet.plane.control.database.transaction(lambda tx: host_loads(tx, template=""))
    assert explained.loads[await fleet.id_of(source)].sandboxes == 1
    gate.set()
    assert (await moving).status_code == 200
    refused(await fleet.plane.api.post("/v1/sandboxes", json={}), 409, "quota_exceeded")
    await fleet.assert_usable(sandbox_id)
    # A paused one has no share, also while it is moved.
    await fleet.post(sandbox_id, "pause")
    source.switches.hold["adopt_sandbox"] = gate = asyncio.Event()
    moving = asyncio.create_task(fleet.move(sandbox_id))
    await source.wait_call("adopt_sandbox")
    assert (await fleet.plane.api.post("/v1/sandboxes", json={})).status_code == 201
    gate.set()
    assert (await moving).status_code == 200


async def test_a_move_that_fails_resumes_nothing_on_a_draining_host(fleet: Fleet):
    sandbox_id = await fleet.created()
    source = fleet.place_of(sandbox_id)
    control, host_id = fleet.plane.control, await fleet.id_of(source)
    source.switches.hold["store_sandbox"] = gate = asyncio.Event()
    moving = asyncio.create_task(fleet.move(sandbox_id, **PAUSE))
    await source.wait_call("store_sandbox")
    await control.database.transaction(lambda tx: drain_store.begin(tx, host_id, DrainPolicy.WAIT))
    source.switches.fail["store_sandbox"] = NoCapacity("full")
    gate.set()
    refused(await moving, 503, "no_hosts_available")
    found = (await fleet.plane.api.get(f"/v1/sandboxes/{sandbox_id}")).json()
    assert found["status"] == "paused"
    assert found["metadata"]["reason"]
    await control.database.transaction(lambda tx: drain_store.end(tx, host_id))
    source.switches.fail.clear()
    await fleet.assert_usable(sandbox_id)


@pytest.mark.parametrize("call", ["store_sandbox", "adopt_sandbox"])
async def test_an_agent_that_is_replaced_during_a_transfer_goes_on(fleet: Fleet, call: str):
    sandbox_id = await fleet.paused()
    source = fleet.place_of(sandbox_id)
    target = fleet.other_than(source)
    host = source if call == "store_sandbox" else target
    point = "agent.store_state.after_table" if call == "store_sandbox" else "agent.adopt.after_table"
    with held_points(fleet.tmp_path, point) as held:
        moving = asyncio.create_task(fleet.move(sandbox_id))
        await held.wait_reached()
        # The next agent is not held.
        arm_faults("")
        await host.restart()
    answer = await moving
    assert answer.status_code == 200, answer.text
    assert await fleet.settled(sandbox_id) is target
    await fleet.assert_usable(sandbox_id)
    await fleet.assert_removed(sandbox_id)


async def test_a_call_to_a_sandbox_that_resumes_by_itself_waits_for_the_end_of_its_move(fleet: Fleet):
    sandbox_id = await fleet.created(auto_resume=True)
    await fleet.post(sandbox_id, "pause")
    source = fleet.place_of(sandbox_id)
    target = fleet.other_than(source)
    target.switches.hold["adopt_sandbox"] = gate = asyncio.Event()
    moving = asyncio.create_task(fleet.move(sandbox_id))
    await target.wait_call("adopt_sandbox")
    calling = asyncio.create_task(fleet.post(sandbox_id, "exec", cmd="cat", args=["/root/held"]))
    await asyncio.sleep(0.3)
    assert not calling.done()
    gate.set()
    answer = await calling
    assert (answer.status_code, answer.json().get("stdout")) == (200, "held\n"), answer.text
    assert (await moving).status_code == 200
    assert await fleet.settled(sandbox_id) is target
    assert target.state(sandbox_id) is State.RUNNING


async def test_an_admin_names_the_host(fleet: Fleet):
    database_url = str(fleet.plane.settings.database_url)
    person = await sign_up(fleet.plane.url)
    answer = await person.post("/v1/sandboxes", {})
    assert answer.status_code == 201, answer.text
    sandbox_id = answer.json()["id"]
    path = f"/v1/sandboxes/{sandbox_id}/move"
    here = fleet.place_of(sandbox_id)
    there = str(await fleet.id_of(fleet.other_than(here)))
    # The owner of a team names its own hosts only.
    refused(await person.post(path, {"host_id": there, "pause": True}), 404, "not_found")
    await make_admin(database_url, person)
    refused(await person.post(path, {"host_id": "host-" + "0" * 25, "pause": True}), 404, "not_found")
    present = {"host_id": str(await fleet.id_of(here)), "pause": True}
    refused(await person.post(path, present), 409, "conflict")
    answer = await person.post(path, {"host_id": there, "pause": True})
    assert answer.status_code == 200, answer.text
    assert answer.json()["status"] == "running"
    assert await fleet.settled(sandbox_id) is fleet.other_than(here)


async def test_what_a_teams_own_host_saved_is_not_restored_on_a_host_of_the_platform(fleet: Fleet):
    database_url = str(fleet.plane.settings.database_url)
    sandbox_id = await fleet.paused()
    here = fleet.place_of(sandbox_id)
    there = fleet.other_than(here)
    own, other = await fleet.id_of(here), await fleet.id_of(there)
    team = "(SELECT team_id FROM sandboxes LIMIT 1)"
    await run_sql(database_url, f"UPDATE hosts SET type = 'byoc', team_id = {team} WHERE id = '{own.value}'")
    said = refused(await fleet.move(sandbox_id), 503, "no_hosts_available")
    assert "a team's own host" in said
    # The other way it may go, when the team runs its sandboxes on its own hosts.
    await run_sql(
        database_url,
        f"UPDATE hosts SET type = 'regular', team_id = NULL WHERE id = '{own.value}'",
        f"UPDATE hosts SET type = 'byoc', team_id = {team} WHERE id = '{other.value}'",
        f"UPDATE teams SET is_byoc = true WHERE id = {team}",
    )
    answer = await fleet.move(sandbox_id)
    assert answer.status_code == 200, answer.text
    assert await fleet.settled(sandbox_id) is there


async def test_a_drain_moves_what_it_can_and_names_the_rest(fleet: Fleet):
    control, source = fleet.plane.control, fleet.hosts[0]
    target = fleet.other_than(source)
    running, paused = await fleet.created_on(source), await fleet.created_on(source)
    await fleet.post(paused, "pause")
    stays = await fleet.created_on(source, host_tags=["special"])
    host_id = await fleet.id_of(source)
    await control.database.transaction(lambda tx: drain_store.begin(tx, host_id, DrainPolicy.MOVE))
    control.drains.loop.wake()
    async with asyncio.timeout(DEADLINE_S):
        while not {running, paused} <= target.sandbox_ids or source.sandbox_ids != {stays}:
            await asyncio.sleep(0.1)
    await fleet.plane.wait_status(f"/v1/sandboxes/{running}", "running")
    assert target.state(paused) is State.PAUSED
    # One that no other host can take runs on, and is named.
    async with asyncio.timeout(DEADLINE_S):
        while not (failed := await drained.failed(control.database, host_id, limit=9, paused=True)):
            await asyncio.sleep(0.1)
    ((sandbox_id, code, reason),) = failed
    assert (str(sandbox_id), code) == (stays, "no_hosts_available")
    assert "without the tags (1 host)" in reason
    assert source.state(stays) is State.RUNNING
    await fleet.post(stays, "pause")
    async with asyncio.timeout(DEADLINE_S):
        while not (await drain_store.draining(control.database))[0].is_drained:
            await asyncio.sleep(0.1)
    await control.database.transaction(lambda tx: drain_store.end(tx, host_id))
    await fleet.assert_usable(stays)
    await fleet.assert_usable(paused)


_MANY = ["after_desired", "after_begin", "after_upload", "after_publish", "before_commit"]


@pytest.mark.parametrize(
    "point",
    ["after_adopt", "after_commit", *(pytest.param(point, marks=pytest.mark.all_faults) for point in _MANY)],
)
async def test_a_control_plane_killed_at_any_step_loses_nothing(
    data_dir: Path,
    pki: Path,
    database_url: str,
    database: Database,
    tmp_path: Path,
    unused_tcp_port: int,
    point: str,
):
    environment = {
        **environment_of(data_dir, database_url),
        "WRENN_STORE": (tmp_path / "store").as_uri(),
    }
    key = await make_team(database_url, "ada")
    port = unused_tcp_port
    async with agent_host(tmp_path / "a") as first, agent_host(tmp_path / "b") as second:
        faults = {"WRENN_FAULTS": f"control.move.{point}=kill"}
        async with control_process({**environment, **faults}, port, first) as process:
            await second.join(f"http://127.0.0.1:{port}", database_url, name="second")
            async with client(f"http://127.0.0.1:{port}", key) as api:
                plane = ControlPlane(api, "", key, None, None)  # type: ignore[arg-type] - the process is elsewhere
                fleet = Fleet(plane, (first, second), tmp_path)
                sandbox_id = await fleet.paused()
                source = fleet.place_of(sandbox_id)
                with contextlib.suppress(httpx2.TransportError):
                    await fleet.move(sandbox_id)
                await died(process)
        async with (
            control_process(environment, port),
            client(f"http://127.0.0.1:{port}", key) as api,
        ):
            fleet = Fleet(ControlPlane(api, "", key, None, None), (first, second), tmp_path)  # type: ignore[arg-type]
            async with asyncio.timeout(DEADLINE_S):
                while (await database.execute(select(_c.id).where(_c.move_host_id.is_not(None)))).all():
                    await asyncio.sleep(0.1)
            place = await fleet.settled(sandbox_id)
            assert place is not source, "the next control plane goes on with the move"
            await fleet.assert_usable(sandbox_id)
            await fleet.assert_removed(sandbox_id)
