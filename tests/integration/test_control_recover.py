"""Paused sandboxes are uploaded, and started on another host when theirs is lost. Takes about 40 s."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import func, select

from tests.agent.kit import assert_nothing_left
from tests.held_points import held_points
from wrenn.agent.sandboxes import State
from wrenn.base.errors import InternalError
from wrenn.base.faults import arm_faults
from wrenn.control.hosts import DrainPolicy, drain_store, hosts
from wrenn.control.images import images
from wrenn.control.images.tables import image_collections
from wrenn.control.quotas import Limits
from wrenn.control.sandboxes import PauseUploads
from wrenn.control.sandboxes.tables import sandbox_uploads
from wrenn.control.settings import Settings
from wrenn.testing.agent_host import AgentHost, agent_host

from .conftest import client, environment_of, make_team, refused, run_sql, running_control_plane
from .test_control_move import Fleet
from .test_control_quotas import set_limits

DEADLINE_S = 30.0


@pytest.fixture
def settings(data_dir: Path, pki: Path, database_url: str, tmp_path: Path) -> Settings:
    environment = {**environment_of(data_dir, database_url), "WRENN_STORE": (tmp_path / "store").as_uri()}
    environment |= {"WRENN_LEASE_S": "5", "WRENN_HOST_INTERVAL_S": "0.3", "WRENN_MISSING_AFTER_S": "2"}
    # Hosts that are lost stay silent.
    environment["WRENN_START_RETRY_S"] = "1"
    return Settings.from_environment({**environment, "WRENN_UPLOAD_PAUSED": "always"})


@asynccontextmanager
async def fleet_of(settings: Settings, tmp_path: Path) -> AsyncGenerator[Fleet]:
    database_url = str(settings.database_url)
    key = await make_team(database_url, "ada")
    async with (
        agent_host(tmp_path / "a") as first,
        agent_host(tmp_path / "b") as second,
        running_control_plane(settings, key) as plane,
    ):
        await first.join(plane.url, database_url)
        await second.join(plane.url, database_url, name="second")
        await plane.control.monitor.look_once()
        yield Fleet(plane, (first, second), tmp_path)
        arm_faults("")


@pytest.fixture
async def fleet(settings: Settings, tmp_path: Path) -> AsyncIterator[Fleet]:
    async with fleet_of(settings, tmp_path) as fleet:
        yield fleet


async def info(fleet: Fleet, sandbox_id: str) -> dict[str, Any]:
    return (await fleet.plane.api.get(f"/v1/sandboxes/{sandbox_id}")).json()


async def stored_at(fleet: Fleet, sandbox_id: str, *, other_than: object = None) -> str:
    """When the state was saved that the store has."""
    async with asyncio.timeout(DEADLINE_S):
        while (found := (await info(fleet, sandbox_id)).get("stored_at")) == other_than or found is None:
            await asyncio.sleep(0.05)
    return found


async def images_there(fleet: Fleet) -> int:
    await fleet.plane.control.image_sweep.sweep_once()
    found = await fleet.plane.control.database.execute(select(func.count()).select_from(images))
    return found.scalar_one()


async def lose(fleet: Fleet, host: AgentHost) -> None:
    """Its agent ends; returns when the control plane takes the host for lost."""
    host_id = await fleet.id_of(host)
    await host.stop()
    query = select(hosts.c.status).where(hosts.c.id == host_id.value)
    async with asyncio.timeout(DEADLINE_S):
        while (await fleet.plane.control.database.execute(query)).scalar_one() != "unreachable":
            await asyncio.sleep(0.1)


async def recover(fleet: Fleet, sandbox_id: str) -> Any:
    return await fleet.post(sandbox_id, "recover")


async def test_a_paused_sandbox_of_a_lost_host_goes_on_elsewhere(fleet: Fleet):
    sandbox_id = await fleet.paused()
    source = fleet.place_of(sandbox_id)
    saved = await stored_at(fleet, sandbox_id)
    said = refused(await recover(fleet, sandbox_id), 409, "invalid_state")
    assert "not lost" in said
    await lose(fleet, source)
    said = refused(await fleet.post(sandbox_id, "resume"), 503, "host_unavailable")
    assert saved in said
    stranger = await fleet.plane.other_team()
    async with client(fleet.plane.url, stranger) as other:
        refused(await other.post(f"/v1/sandboxes/{sandbox_id}/recover"), 404, "not_found")
    answer = await recover(fleet, sandbox_id)
    assert answer.status_code == 200, answer.text
    assert answer.json()["saved_at"] == saved
    assert answer.json()["sandbox"]["status"] == "running"
    target = fleet.other_than(source)
    assert target.state(sandbox_id) is State.RUNNING
    answer = await fleet.post(sandbox_id, "exec", cmd="cat", args=["/root/held"])
    assert answer.json().get("stdout") == "held\n", answer.text
    refused(await recover(fleet, sandbox_id), 409, "invalid_state")
    # The host removes its copy when it is back.
    await source.start()
    async with asyncio.timeout(DEADLINE_S):
        while sandbox_id in source.sandbox_ids:
            await asyncio.sleep(0.1)
    await fleet.assert_usable(sandbox_id)
    await fleet.assert_removed(sandbox_id)


@pytest.mark.parametrize("way", ["damaged", "absent"])
async def test_what_the_store_has_of_a_sandbox_outlives_its_files_on_a_host_that_answers(
    fleet: Fleet, way: str
):
    sandbox_id = await fleet.paused()
    source = fleet.place_of(sandbox_id)
    saved = await stored_at(fleet, sandbox_id)
    if way == "damaged":
        snapshot = source.agent.layout.snapshots / source.record(sandbox_id).snapshot
        (snapshot / "manifest.json").unlink()
        await source.restart()
    else:
        await source.remove(sandbox_id)
    async with asyncio.timeout(DEADLINE_S):
        while "can be recovered" not in str((found := await info(fleet, sandbox_id))["metadata"]):
            await asyncio.sleep(0.05)
    assert found["status"] == "paused"
    assert saved in str(found["metadata"])
    for _ in range(3):
        await fleet.plane.control.comparison.compare_once()
    assert await images_there(fleet) == 1, "what the store has is kept"
    assert source.sandbox_ids == ({sandbox_id} if way == "damaged" else set())
    answer = await recover(fleet, sandbox_id)
    assert answer.status_code == 200, answer.text
    assert fleet.other_than(source).state(sandbox_id) is State.RUNNING
    await fleet.assert_usable(sandbox_id)
    async with asyncio.timeout(DEADLINE_S):
        while source.sandbox_ids:
            await asyncio.sleep(0.1)


async def test_a_missing_sandbox_goes_back_to_its_last_stored_pause(fleet: Fleet):
    sandbox_id = await fleet.paused()
    source = fleet.place_of(sandbox_id)
    saved = await stored_at(fleet, sandbox_id)
    answer = await fleet.post(sandbox_id, "resume")
    assert answer.json()["stored_at"] == saved
    await fleet.post(sandbox_id, "exec", cmd="sh", args=["-c", "echo lost >/root/held"])
    running_only = await fleet.created_on(source)
    await lose(fleet, source)
    for each in (sandbox_id, running_only):
        await fleet.plane.wait_status(f"/v1/sandboxes/{each}", "missing")
    said = refused(await recover(fleet, running_only), 409, "invalid_state")
    assert "only its host has it" in said
    # It goes on when whoever asked for it has ended.
    arm_faults("control.recover.after_desired=error")
    assert (await recover(fleet, sandbox_id)).status_code == 500
    arm_faults("")
    await fleet.plane.wait_status(f"/v1/sandboxes/{sandbox_id}", "running")
    assert (await info(fleet, sandbox_id))["stored_at"] == saved
    answer = await fleet.post(sandbox_id, "exec", cmd="cat", args=["/root/held"])
    assert answer.json().get("stdout") == "held\n", answer.text
    entries = (await fleet.plane.api.get("/v1/audit-logs")).json()
    assert "recover" in str(entries)
    await source.start()
    await fleet.plane.wait_status(f"/v1/sandboxes/{running_only}", "running")
    await fleet.settled(sandbox_id)


async def test_each_pause_is_stored_and_only_the_last_one_stays(fleet: Fleet):
    sandbox_id = await fleet.paused()
    first = await stored_at(fleet, sandbox_id)
    assert await images_there(fleet) == 1
    await fleet.post(sandbox_id, "resume")
    await asyncio.sleep(1)
    await fleet.post(sandbox_id, "pause")
    second = await stored_at(fleet, sandbox_id, other_than=first)
    assert second > first
    async with asyncio.timeout(DEADLINE_S):
        while await images_there(fleet) != 1:
            await asyncio.sleep(0.1)
    await fleet.assert_removed(sandbox_id)
    async with asyncio.timeout(DEADLINE_S):
        while await images_there(fleet) or any(p.is_file() for p in (fleet.tmp_path / "store").rglob("*")):
            await asyncio.sleep(0.1)
    for host in fleet.hosts:
        await assert_nothing_left(host.agent)


async def test_a_resume_and_a_move_do_not_wait_for_an_upload(fleet: Fleet):
    sandbox_id = await fleet.created()
    source = fleet.place_of(sandbox_id)
    arm_faults("agent.store_state.after_table=sleep:20")
    await fleet.post(sandbox_id, "pause")
    await source.wait_call("store_sandbox")
    answer = await asyncio.wait_for(fleet.post(sandbox_id, "resume"), 10)
    assert answer.status_code == 200, answer.text
    arm_faults("")
    assert "stored_at" not in answer.json()
    await fleet.post(sandbox_id, "pause")
    answer = await fleet.move(sandbox_id)
    assert answer.status_code == 200, answer.text
    assert await fleet.settled(sandbox_id) is not source
    await fleet.assert_usable(sandbox_id)


async def test_a_failed_upload_is_tried_again_later_and_holds_up_no_other(fleet: Fleet):
    sandbox_id = await fleet.created()
    source = fleet.place_of(sandbox_id)
    source.switches.fail["store_sandbox"] = InternalError("full")
    await fleet.post(sandbox_id, "pause")
    await source.wait_call("store_sandbox")
    source.switches.fail.clear()
    other = await fleet.paused()
    await stored_at(fleet, other)
    assert "stored_at" not in await info(fleet, sandbox_id)


async def test_a_host_whose_uploads_never_end_holds_up_no_other(fleet: Fleet):
    first, second = fleet.hosts
    first.switches.hold["store_sandbox"] = gate = asyncio.Event()
    stuck = [await fleet.created_on(first) for _ in range(5)]
    for sandbox_id in stuck:
        await fleet.post(sandbox_id, "pause")
    await first.wait_call("store_sandbox", count=2)
    while True:
        other = await fleet.created()
        if other in second.sandbox_ids:
            break
    await fleet.post(other, "pause")
    await stored_at(fleet, other)
    assert first.calls["store_sandbox"] == 2
    gate.set()
    for sandbox_id in stuck:
        await stored_at(fleet, sandbox_id)


async def test_uploads_in_the_background_wait_where_garbage_could_not_be_collected_for_long(fleet: Fleet):
    removed = await fleet.paused()
    await stored_at(fleet, removed)
    url = str(fleet.plane.settings.database_url)
    await run_sql(
        url,
        "INSERT INTO images (id, team_id, status, kind, host_id, lease_owner, lease_until)"
        " SELECT gen_random_uuid(), team_id, 'pending', 'sandbox', (SELECT min(id::text)::uuid FROM hosts), 'other', now() + interval '1 hour' FROM images",
    )
    answer = await fleet.plane.api.delete(f"/v1/sandboxes/{removed}")
    assert answer.status_code == 204, answer.text
    blocked = select(func.count()).where(image_collections.c.blocked_since.is_not(None))
    database = fleet.plane.control.database
    async with asyncio.timeout(DEADLINE_S):
        while not (await database.execute(blocked)).scalar_one():
            await asyncio.sleep(0.1)
    # Until it is overdue, uploads go on.
    await stored_at(fleet, await fleet.paused())
    await run_sql(url, "UPDATE image_collections SET blocked_since = now() - interval '31 minutes'")
    waiting = await fleet.paused()
    await asyncio.sleep(2)
    assert "stored_at" not in await info(fleet, waiting)
    await run_sql(url, "DELETE FROM images WHERE status = 'pending'")
    # What was removed before leaves the store now, then the next state gets there.
    await fleet.plane.control.image_sweep.sweep_once()
    await stored_at(fleet, waiting)
    assert not (await database.execute(blocked)).scalar_one()


async def test_an_upload_that_ends_during_a_recovery_does_not_change_what_is_recovered(fleet: Fleet):
    sandbox_id = await fleet.paused()
    source = fleet.place_of(sandbox_id)
    target = fleet.other_than(source)
    saved = await stored_at(fleet, sandbox_id)
    await fleet.post(sandbox_id, "resume")
    await fleet.post(sandbox_id, "exec", cmd="sh", args=["-c", "echo later >/root/held"])
    with held_points(fleet.tmp_path, "control.move.after_upload") as held:
        await fleet.post(sandbox_id, "pause")
        await held.wait_reached()
        target.switches.hold["adopt_sandbox"] = gate = asyncio.Event()
        await lose(fleet, source)
        recovering = asyncio.create_task(recover(fleet, sandbox_id))
        await target.wait_call("adopt_sandbox")
        held.release()
        uploads = select(func.count()).select_from(sandbox_uploads)
        async with asyncio.timeout(DEADLINE_S):
            while (await fleet.plane.control.database.execute(uploads)).scalar_one():
                await asyncio.sleep(0.02)
    gate.set()
    answer = await recovering
    assert answer.status_code == 200, answer.text
    assert answer.json()["saved_at"] == saved
    assert answer.json()["sandbox"]["stored_at"] == saved
    answer = await fleet.post(sandbox_id, "exec", cmd="cat", args=["/root/held"])
    assert answer.json().get("stdout") == "held\n", answer.text
    await source.start()
    await fleet.settled(sandbox_id)


async def test_what_is_stored_counts_in_the_quota_and_what_does_not_fit_is_not_stored(fleet: Fleet):
    sandbox_id = await fleet.paused()
    await stored_at(fleet, sandbox_id)
    found = (await fleet.plane.api.get("/v1/limits")).json()
    used = found["usage"]["snapshot_mb"]
    assert used > 0
    await set_limits(fleet.plane, Limits(snapshot_mb=used))
    other = await fleet.paused()
    source = fleet.place_of(other)
    await asyncio.sleep(2)
    assert "stored_at" not in await info(fleet, other)
    # A move is not refused for that.
    answer = await fleet.move(other)
    assert answer.status_code == 200, answer.text
    assert await fleet.settled(other) is not source
    await fleet.assert_removed(other)
    await fleet.assert_removed(sandbox_id)
    async with asyncio.timeout(DEADLINE_S):
        while (await fleet.plane.api.get("/v1/limits")).json()["usage"]["snapshot_mb"]:
            await fleet.plane.control.image_sweep.sweep_once()
            await asyncio.sleep(0.1)


async def test_paused_sandboxes_of_a_drained_host_are_stored_where_that_is_asked_for(
    settings: Settings, tmp_path: Path
):
    async with fleet_of(replace(settings, pause_uploads=PauseUploads.ON_DRAIN), tmp_path) as fleet:
        sandbox_id = await fleet.paused()
        source = fleet.place_of(sandbox_id)
        host_id, control = await fleet.id_of(source), fleet.plane.control
        await asyncio.sleep(1)
        assert source.calls["store_sandbox"] == 0
        await control.database.transaction(lambda tx: drain_store.begin(tx, host_id, DrainPolicy.PAUSE))
        await stored_at(fleet, sandbox_id)
        await lose(fleet, source)
        answer = await recover(fleet, sandbox_id)
        assert answer.status_code == 200, answer.text
        # What the store has cannot be used any more.
        assert "stored_at" not in answer.json()["sandbox"]
        async with asyncio.timeout(DEADLINE_S):
            while await images_there(fleet):
                await asyncio.sleep(0.1)
        await source.start()
        await fleet.settled(sandbox_id)


async def test_a_recovery_that_fails_leaves_the_sandbox_on_its_host(fleet: Fleet):
    sandbox_id = await fleet.paused()
    source = fleet.place_of(sandbox_id)
    await stored_at(fleet, sandbox_id)
    target = fleet.other_than(source)
    await lose(fleet, source)
    target.switches.fail["adopt_sandbox"] = InternalError("secret")
    answer = await recover(fleet, sandbox_id)
    assert answer.status_code == 500, answer.text
    assert "secret" not in answer.text
    found = await info(fleet, sandbox_id)
    assert (found["status"], bool(found["stored_at"])) == ("paused", True)
    target.switches.fail.clear()
    await source.start()
    await fleet.plane.control.monitor.look_once()
    await fleet.assert_usable(sandbox_id)
    assert fleet.place_of(sandbox_id) is source
