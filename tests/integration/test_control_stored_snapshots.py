"""Sandboxes are created from a snapshot on a host that fetches it from the store. Takes about 60 s; two of the points where the control plane is killed run only in `make test-all`."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx2
import pytest
from sqlalchemy import func, select

from tests.agent.kit import assert_nothing_left
from wrenn.base.errors import InternalError, Unavailable
from wrenn.base.faults import arm_faults
from wrenn.control.db import Database
from wrenn.control.images import images
from wrenn.control.sandboxes import sandboxes
from wrenn.control.settings import Settings
from wrenn.control.snapshots import SnapshotUploads
from wrenn.control.templates import snapshot_copies, templates
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
from .test_control_crash import died
from .test_control_move import Fleet

DEADLINE_S = 30.0
ELSEWHERE = {"host_tags": ["elsewhere"]}
_c = templates.c


@pytest.fixture
def settings(data_dir: Path, pki: Path, database_url: str, tmp_path: Path) -> Settings:
    environment = {**environment_of(data_dir, database_url), "WRENN_STORE": (tmp_path / "store").as_uri()}
    return Settings.from_environment({**environment, "WRENN_LEASE_S": "5", "WRENN_HOST_INTERVAL_S": "0.5"})


@asynccontextmanager
async def fleet_of(settings: Settings, tmp_path: Path) -> AsyncGenerator[Fleet]:
    """Two hosts, of which the second has the tag `elsewhere`."""
    database_url = str(settings.database_url)
    key = await make_team(database_url, "ada")
    async with (
        agent_host(tmp_path / "a") as first,
        agent_host(tmp_path / "b") as second,
        running_control_plane(settings, key) as plane,
    ):
        await first.join(plane.url, database_url)
        await second.join(plane.url, database_url, name="second")
        fleet = Fleet(plane, (first, second), tmp_path)
        await tag(fleet, second)
        yield fleet
        arm_faults("")


async def tag(fleet: Fleet, host: AgentHost) -> None:
    host_id = await fleet.id_of(host)
    await run_sql(
        str(fleet.plane.settings.database_url),
        f"INSERT INTO host_tags (host_id, tag) VALUES ('{host_id.value}', 'elsewhere') ON CONFLICT DO NOTHING",
    )
    await fleet.plane.control.monitor.look_once()


@pytest.fixture
async def fleet(settings: Settings, tmp_path: Path) -> AsyncIterator[Fleet]:
    async with fleet_of(settings, tmp_path) as fleet:
        yield fleet


async def template_on(fleet: Fleet, host: AgentHost, name: str = "own", **body: Any) -> None:
    """Make a template of a sandbox with a file, on this host; the sandbox is removed."""
    while True:
        sandbox_id = await fleet.created(**body)
        if sandbox_id in host.sandbox_ids:
            break
    answer = await fleet.plane.api.post("/v1/snapshots", json={"sandbox_id": sandbox_id, "name": name})
    assert answer.status_code == 201, answer.text
    for each in (await fleet.plane.api.get("/v1/sandboxes")).json():
        await fleet.plane.api.delete(f"/v1/sandboxes/{each['id']}")


async def create(fleet: Fleet, **body: Any) -> httpx2.Response:
    return await fleet.plane.api.post("/v1/sandboxes", json={"template": "own", **body})


async def assert_created_on(fleet: Fleet, host: AgentHost, **body: Any) -> str:
    answer = await create(fleet, **body)
    assert answer.status_code == 201, answer.text
    sandbox_id = answer.json()["id"]
    assert sandbox_id in host.sandbox_ids
    answer = await fleet.post(sandbox_id, "exec", cmd="cat", args=["/root/held"])
    assert answer.json().get("stdout") == "held\n", answer.text
    return sandbox_id


async def assert_all_removed(fleet: Fleet, database: Database | None = None) -> None:
    """After the deletion of sandboxes and template nothing is left on hosts, in the store and in the tables."""
    for each in (await fleet.plane.api.get("/v1/sandboxes")).json():
        await fleet.plane.api.delete(f"/v1/sandboxes/{each['id']}")
    answer = await fleet.plane.api.delete("/v1/snapshots/own")
    assert answer.status_code in (204, 404), answer.text
    database = database or fleet.plane.control.database
    async with asyncio.timeout(DEADLINE_S):
        while (
            any(host.snapshot_ids for host in fleet.hosts)
            or await counted(database) != [0, 0, 0]
            or any(path.is_file() for path in (fleet.tmp_path / "store").rglob("*"))
        ):
            if fleet.plane.control:
                await fleet.plane.control.sweep.sweep_once()
                await fleet.plane.control.image_sweep.sweep_once()
            await asyncio.sleep(0.1)
    for host in fleet.hosts:
        await assert_nothing_left(host.agent)


async def counted(database: Database) -> list[int]:
    """The rows of snapshots, their copies, and images."""
    counts: list[int] = []
    for table, where in (
        (templates, _c.type == "snapshot"),
        (snapshot_copies, snapshot_copies.c.snapshot_id.is_not(None)),
        (images, images.c.id.is_not(None)),
    ):
        found = await database.execute(select(func.count()).select_from(table).where(where))
        counts.append(found.scalar_one())
    return counts


async def test_a_snapshot_is_fetched_by_another_host_once_and_removed_everywhere(fleet: Fleet):
    first, second = fleet.hosts
    await template_on(fleet, first)
    # Where it is, other things being equal.
    await assert_created_on(fleet, first)
    assert first.calls["store_snapshot"] == 0
    answers = await asyncio.gather(*(create(fleet, **ELSEWHERE) for _ in range(3)))
    assert [answer.status_code for answer in answers] == [201] * 3, [answer.text for answer in answers]
    assert {answer.json()["id"] for answer in answers} <= second.sandbox_ids
    await assert_created_on(fleet, second, **ELSEWHERE)
    database = fleet.plane.control.database
    assert await counted(database) == [1, 1, 1]
    # The host that has it is enough, also when the store and the other host are not there.
    first.silence("store_snapshot")
    (fleet.tmp_path / "store").rename(fleet.tmp_path / "elsewhere")
    await assert_created_on(fleet, second, **ELSEWHERE)
    (fleet.tmp_path / "elsewhere").rename(fleet.tmp_path / "store")
    first.answer_again()
    await assert_all_removed(fleet)


async def test_a_stored_snapshot_outlives_its_host_and_one_that_is_not_stored_does_not(fleet: Fleet):
    first, second = fleet.hosts
    await template_on(fleet, first)
    first.silence("store_snapshot", "ensure_sandbox")
    await run_sql(
        str(fleet.plane.settings.database_url),
        "UPDATE hosts SET is_reachable = false, silent_since = now() - interval '1 hour', status = 'unreachable'"
        f" WHERE id = '{(await fleet.id_of(first)).value}'",
    )
    refused(await create(fleet), 503, "host_unavailable")
    first.answer_again()
    await fleet.plane.control.monitor.look_once()
    await assert_created_on(fleet, second, **ELSEWHERE)
    for each in (await fleet.plane.api.get("/v1/sandboxes")).json():
        await fleet.plane.api.delete(f"/v1/sandboxes/{each['id']}")
    await first.stop()
    await run_sql(
        str(fleet.plane.settings.database_url),
        "UPDATE hosts SET deleted_at = now(), is_reachable = false"
        f" WHERE id = '{(await fleet.id_of(first)).value}'",
    )
    await assert_created_on(fleet, second)
    await first.start()


async def test_where_nothing_is_uploaded_a_snapshot_stays_on_its_host(settings: Settings, tmp_path: Path):
    async with fleet_of(replace(settings, snapshot_uploads=SnapshotUploads.NEVER), tmp_path) as fleet:
        await template_on(fleet, fleet.hosts[0])
        said = refused(await create(fleet, **ELSEWHERE), 503, "no_hosts_available")
        assert "the only one that has its files" in said
        await assert_created_on(fleet, fleet.hosts[0])
        assert fleet.hosts[0].calls["store_snapshot"] == 0


async def test_snapshots_are_uploaded_in_the_background_where_that_is_asked_for(
    settings: Settings, tmp_path: Path
):
    async with fleet_of(replace(settings, snapshot_uploads=SnapshotUploads.ALWAYS), tmp_path) as fleet:
        first, second = fleet.hosts
        first.switches.fail["store_snapshot"] = InternalError("secret")
        await template_on(fleet, first)
        await first.wait_call("store_snapshot")
        first.switches.fail.clear()
        database = fleet.plane.control.database
        # One that failed is not tried again soon, others are.
        await template_on(fleet, first, "other")
        async with asyncio.timeout(DEADLINE_S):
            while not (
                await database.execute(
                    select(_c.id).where(_c.name == "other", _c.stored_image_id.is_not(None))
                )
            ).all():
                await asyncio.sleep(0.1)
        assert await counted(database) == [2, 0, 1]
        # A new version goes into the store, and the former one leaves it.
        answer = await create(fleet, template="other")
        body = {"sandbox_id": answer.json()["id"], "name": "other"}
        answer = await fleet.plane.api.post("/v1/snapshots", json=body, params={"overwrite": "true"})
        assert answer.status_code == 201, answer.text
        async with asyncio.timeout(DEADLINE_S):
            while (await counted(database))[2] != 1 or not (
                await database.execute(
                    select(_c.id).where(_c.name == "other", _c.stored_image_id.is_not(None))
                )
            ).all():
                await fleet.plane.control.image_sweep.sweep_once()
                await asyncio.sleep(0.1)
        await assert_created_on(fleet, second, template="other", **ELSEWHERE)


async def test_a_team_that_brings_its_hosts_gets_snapshots_there_and_none_of_them_leaves(fleet: Fleet):
    first, second = fleet.hosts
    await template_on(fleet, first)
    database_url = str(fleet.plane.settings.database_url)
    one, two = (await fleet.id_of(first)).value, (await fleet.id_of(second)).value
    team = "(SELECT team_id FROM templates WHERE name = 'own')"
    await run_sql(
        database_url,
        f"UPDATE hosts SET type = 'byoc', team_id = {team} WHERE id = '{two}'",
        f"UPDATE teams SET is_byoc = true WHERE id = {team}",
    )
    await assert_created_on(fleet, second)
    # What was saved on the team's own host, and is in the store.
    await run_sql(
        database_url,
        "DELETE FROM snapshot_copies",
        f"UPDATE hosts SET type = 'byoc', team_id = {team} WHERE id = '{one}'",
        f"UPDATE hosts SET type = 'regular', team_id = NULL WHERE id = '{two}'",
        f"UPDATE teams SET is_byoc = false WHERE id = {team}",
    )
    said = refused(await create(fleet, **ELSEWHERE), 503, "no_hosts_available")
    assert "the only one that has its files" in said


@pytest.mark.parametrize("point", ["after_begin", "after_upload", "after_publish"])
async def test_an_upload_that_fails_leaves_nothing_and_the_next_create_does_it(fleet: Fleet, point: str):
    first, second = fleet.hosts
    await template_on(fleet, first)
    arm_faults(f"control.store_snapshot.{point}=error")
    # Its worker is as good as dead: another one would take the sandbox over when its lease is over.
    with contextlib.suppress(TimeoutError):
        await asyncio.wait_for(create(fleet, **ELSEWHERE), 3)
    arm_faults("")
    await assert_created_on(fleet, second, **ELSEWHERE)
    await assert_all_removed(fleet)


async def test_a_create_says_why_the_snapshot_was_not_brought_to_its_host(fleet: Fleet):
    first, second = fleet.hosts
    await template_on(fleet, first)
    first.switches.fail["store_snapshot"] = InternalError("secret")
    answer = await create(fleet, **ELSEWHERE)
    assert answer.status_code == 500, answer.text
    assert "secret" not in answer.text
    first.switches.fail["store_snapshot"] = Unavailable("silent")
    creating = asyncio.create_task(create(fleet, **ELSEWHERE))
    await first.wait_call("store_snapshot", count=3)
    first.switches.fail.clear()
    answer = await creating
    assert answer.status_code == 201, answer.text
    assert answer.json()["id"] in second.sandbox_ids


async def test_an_upload_outlives_the_create_that_needs_it_which_holds_no_place_meanwhile(
    settings: Settings, tmp_path: Path
):
    async with fleet_of(replace(settings, start_timeout_s=6), tmp_path) as fleet:
        first, second = fleet.hosts
        await template_on(fleet, first)
        first.switches.hold["store_snapshot"] = gate = asyncio.Event()
        creating = asyncio.create_task(create(fleet, **ELSEWHERE))
        await first.wait_call("store_snapshot")
        free = select(sandboxes.c.id).where(
            sandboxes.c.status == "starting", sandboxes.c.lease_owner.is_(None)
        )
        async with asyncio.timeout(DEADLINE_S):
            while not (await fleet.plane.control.database.execute(free)).all():
                await asyncio.sleep(0.02)
        refused(await creating, 504, "deadline_exceeded")
        gate.set()
        async with asyncio.timeout(DEADLINE_S):
            while (await counted(fleet.plane.control.database))[2] == 0 or not (
                await fleet.plane.control.database.execute(
                    select(_c.id).where(_c.name == "own", _c.stored_image_id.is_not(None))
                )
            ).all():
                await asyncio.sleep(0.1)
        # It was the one that the create began.
        found = await fleet.plane.control.database.execute(select(func.count()).select_from(images))
        assert found.scalar_one() == 1
        await assert_created_on(fleet, second, **ELSEWHERE)
        await assert_all_removed(fleet)


async def test_a_host_is_not_avoided_because_another_one_did_not_upload_a_snapshot(fleet: Fleet):
    first, second = fleet.hosts
    await template_on(fleet, first)
    first.switches.fail["store_snapshot"] = InternalError("secret")
    for _ in range(2):
        answer = await create(fleet, **ELSEWHERE)
        assert answer.status_code == 500, answer.text
    before = len(second.sandbox_ids)
    for _ in range(6):
        await fleet.created()
    assert len(second.sandbox_ids) > before


async def test_a_template_that_is_deleted_during_its_upload_goes_everywhere(fleet: Fleet):
    first, _ = fleet.hosts
    await template_on(fleet, first)
    first.switches.hold["store_snapshot"] = gate = asyncio.Event()
    creating = asyncio.create_task(create(fleet, **ELSEWHERE))
    await first.wait_call("store_snapshot")
    answer = await fleet.plane.api.delete("/v1/snapshots/own")
    assert answer.status_code == 204, answer.text
    gate.set()
    refused(await creating, 404, "not_found")
    await assert_all_removed(fleet)


async def test_a_copy_that_nobody_uses_is_removed(fleet: Fleet):
    first, second = fleet.hosts
    await template_on(fleet, first)
    sandbox_id = await assert_created_on(fleet, second, **ELSEWHERE)
    assert second.snapshot_ids
    await fleet.plane.control.sweep.sweep_once()
    assert second.snapshot_ids
    await run_sql(
        str(fleet.plane.settings.database_url),
        "UPDATE snapshot_copies SET used_at = now() - interval '2 days'",
    )
    async with asyncio.timeout(DEADLINE_S):
        while second.snapshot_ids:
            await asyncio.sleep(0.1)
    assert first.snapshot_ids
    assert await counted(fleet.plane.control.database) == [1, 0, 1]
    # Its sandbox goes on, and the next one fetches it again.
    answer = await fleet.post(sandbox_id, "exec", cmd="cat", args=["/root/held"])
    assert answer.json().get("stdout") == "held\n", answer.text
    await assert_created_on(fleet, second, **ELSEWHERE)
    await assert_all_removed(fleet)


async def test_copies_beyond_their_limit_leave_their_host(settings: Settings, tmp_path: Path):
    async with fleet_of(replace(settings, snapshot_copies_mb=1), tmp_path) as fleet:
        first, second = fleet.hosts
        url, database = str(fleet.plane.settings.database_url), fleet.plane.control.database
        await template_on(fleet, first)
        await template_on(fleet, first, "other")
        await assert_created_on(fleet, second, **ELSEWHERE)
        await assert_created_on(fleet, second, template="other", **ELSEWHERE)
        assert len(second.snapshot_ids) == 2
        await run_sql(url, "UPDATE templates SET layers = '{\"large\": 2000000}' WHERE name = 'own'")
        # Both were needed a moment ago.
        await fleet.plane.control.sweep.sweep_once()
        assert len(second.snapshot_ids) == 2
        other = "(SELECT id FROM templates WHERE name = 'other')"
        await run_sql(
            url,
            f"UPDATE snapshot_copies SET used_at = now() - interval '10 minutes' WHERE snapshot_id <> {other}",
        )
        async with asyncio.timeout(DEADLINE_S):
            while len(second.snapshot_ids) > 1 or (await counted(database))[1] > 1:
                await asyncio.sleep(0.1)
        left = await database.execute(
            select(_c.name).join_from(snapshot_copies, templates, _c.id == snapshot_copies.c.snapshot_id)
        )
        assert [row.name for row in left] == ["other"]
        # It is fetched again when it is needed.
        await assert_created_on(fleet, second, **ELSEWHERE)


async def test_a_copy_that_its_host_could_not_remove_is_removed_later(fleet: Fleet):
    first, second = fleet.hosts
    await template_on(fleet, first)
    await assert_created_on(fleet, second, **ELSEWHERE)
    # It sends heartbeats: nothing is asked of a host that is unreachable.
    second.switches.fail["remove_snapshot"] = Unavailable("The host is busy.")
    await run_sql(
        str(fleet.plane.settings.database_url),
        "UPDATE snapshot_copies SET used_at = now() - interval '2 days'",
    )
    await second.wait_call("remove_snapshot", count=2)
    assert second.snapshot_ids
    assert await counted(fleet.plane.control.database) == [1, 1, 1]
    second.answer_again()
    async with asyncio.timeout(DEADLINE_S):
        while second.snapshot_ids or (await counted(fleet.plane.control.database))[1]:
            await asyncio.sleep(0.1)
    assert first.snapshot_ids


async def test_an_offline_host_removes_its_copy_when_it_answers_again(fleet: Fleet):
    first, second = fleet.hosts
    await template_on(fleet, first)
    sandbox_id = await assert_created_on(fleet, second, **ELSEWHERE)
    answer = await fleet.plane.api.delete(f"/v1/sandboxes/{sandbox_id}")
    assert answer.status_code == 204, answer.text
    second.silence("list_snapshots", "remove_snapshot")
    answer = await fleet.plane.api.delete("/v1/snapshots/own")
    assert answer.status_code == 204, answer.text
    assert not first.snapshot_ids
    assert (await counted(fleet.plane.control.database))[:2] == [1, 1]
    second.answer_again()
    await assert_all_removed(fleet)


@pytest.mark.parametrize(
    "point",
    [
        "after_publish",
        pytest.param("after_begin", marks=pytest.mark.all_faults),
        pytest.param("after_upload", marks=pytest.mark.all_faults),
    ],
)
async def test_a_control_plane_killed_at_any_step_of_an_upload_leaves_nothing(
    data_dir: Path,
    pki: Path,
    database_url: str,
    tmp_path: Path,
    unused_tcp_port: int,
    settings: Settings,
    database: Database,
    point: str,
):
    environment = {
        **environment_of(data_dir, database_url),
        "WRENN_STORE": settings.store.url,
        "WRENN_LEASE_S": "5",
        "WRENN_HOST_INTERVAL_S": "0.5",
    }
    key = await make_team(database_url, "ada")
    port = unused_tcp_port
    url = f"http://127.0.0.1:{port}"
    async with agent_host(tmp_path / "a") as first, agent_host(tmp_path / "b") as second:
        faults = {"WRENN_FAULTS": f"control.store_snapshot.{point}=kill"}
        async with (
            control_process({**environment, **faults}, port, first) as process,
            client(url, key) as api,
        ):
            plane = ControlPlane(api, url, key, None, settings)  # type: ignore[arg-type] - the process is elsewhere
            fleet = Fleet(plane, (first, second), tmp_path)
            await template_on(fleet, first)
            await second.join(url, database_url, name="second")
            host_id = await fleet.id_of(second)
            await run_sql(
                database_url,
                f"INSERT INTO host_tags (host_id, tag) VALUES ('{host_id.value}', 'elsewhere')",
            )
            with contextlib.suppress(httpx2.TransportError):
                # The host has just joined: until it was looked at, it is refused.
                while (answer := await create(fleet, **ELSEWHERE)).status_code == 503:
                    await asyncio.sleep(0.1)
                raise AssertionError(answer.text)
            await died(process)
        async with control_process(environment, port), client(url, key) as api:
            fleet = Fleet(ControlPlane(api, url, key, None, settings), (first, second), tmp_path)  # type: ignore[arg-type]
            await assert_created_on(fleet, second, **ELSEWHERE)
            await assert_all_removed(fleet, database)
