"""Layers of builds while hosts fail and builds are cancelled: no build fails for it, and nothing is left. Costs about 30 s."""

from __future__ import annotations

import asyncio
import shutil

import pytest
from sqlalchemy import select

from wrenn.base.errors import StorageFull
from wrenn.base.ids import SnapshotId
from wrenn.control.builds import layer_store
from wrenn.control.builds.keys import Shape
from wrenn.control.builds.tables import build_layers
from wrenn.control.hosts import hosts
from wrenn.control.templates import templates

from .conftest import DEADLINE_S, Platform
from .test_control_build_layers import begin, build, cached, layers_of, team_of
from .test_control_builds import ended

pytestmark = pytest.mark.asyncio(loop_scope="module")

_RECIPE = ["RUN echo a > /srv-a", "START sleep 1000"]


@pytest.fixture
def platform(team_platform: Platform) -> Platform:
    return team_platform


async def hidden_snapshots(platform: Platform) -> set[SnapshotId]:
    """Return those of all teams, on the host or in the database, that are no layers."""
    rows = await platform.control.database.execute(select(templates.c.id).where(templates.c.name.is_(None)))
    layers = await platform.control.database.execute(select(build_layers.c.snapshot_id))
    named = await platform.control.database.execute(
        select(templates.c.id).where(templates.c.name.is_not(None))
    )
    found = {SnapshotId(value) for value in rows.scalars()}
    found |= {SnapshotId.parse(text) for text in platform.host.snapshot_ids}
    return found - {SnapshotId(value) for value in (*layers.scalars(), *named.scalars())}


async def wait_nothing_left(platform: Platform) -> None:
    async with asyncio.timeout(DEADLINE_S):
        while await hidden_snapshots(platform):
            await asyncio.sleep(0.1)


async def test_a_layer_that_the_host_cannot_keep_fails_no_build(platform: Platform):
    switches = platform.host.switches
    switches.fail["ensure_snapshot"] = StorageFull("The disk is full.")
    try:
        made = await build(platform, ["RUN echo a > /srv-a"])
    finally:
        switches.fail.clear()
    assert await layers_of(platform, await team_of(platform, made)) == []
    await wait_nothing_left(platform)


async def test_a_layer_whose_response_is_lost_is_there_once(platform: Platform):
    switches = platform.host.switches
    switches.lose_answer.add("ensure_snapshot")
    try:
        build_id = await begin(platform, ["RUN echo a > /srv-a"])
        await platform.host.wait_call("ensure_snapshot")
    finally:
        switches.lose_answer.clear()
    made = await ended(platform, build_id)
    assert made["status"] == "success", made
    assert len(await layers_of(platform, await team_of(platform, made))) == 1
    await wait_nothing_left(platform)


async def test_a_build_that_is_cancelled_while_a_layer_is_taken_leaves_nothing(platform: Platform):
    release = asyncio.Event()
    platform.host.switches.hold["ensure_snapshot"] = release
    try:
        build_id = await begin(platform, ["RUN sleep 1.1; echo a > /srv-a", "RUN sleep 1000"])
        await platform.host.wait_call("ensure_snapshot")
        assert (await platform.api.post(f"/v1/builds/{build_id}/cancel")).status_code == 204
    finally:
        release.set()
        platform.host.switches.hold.clear()
    assert (await ended(platform, build_id))["status"] == "cancelled"
    await wait_nothing_left(platform)


async def test_an_agent_that_restarts_while_a_layer_is_taken_is_asked_again(platform: Platform):
    release = asyncio.Event()
    platform.host.switches.hold["ensure_snapshot"] = release
    try:
        build_id = await begin(platform, _RECIPE)
        await platform.host.wait_call("ensure_snapshot")
        await platform.host.restart()
    finally:
        release.set()
        platform.host.switches.hold.clear()
    made = await ended(platform, build_id)
    assert made["status"] == "success", made
    assert len(await layers_of(platform, await team_of(platform, made))) == 1
    assert await cached(platform, await build(platform, _RECIPE, name="other")) == [True, False]
    await wait_nothing_left(platform)


async def test_layers_of_an_unreachable_host_are_not_used_until_it_is_back(platform: Platform):
    made = await build(platform, _RECIPE)
    database, team_id = platform.control.database, await team_of(platform, made)
    rows = await database.execute(select(build_layers).where(build_layers.c.team_id == team_id.value))
    row = rows.one()
    shape = Shape(row.vcpus, row.memory_mb, row.disk_size_mb)

    async def wait_reachable(expected: bool) -> None:
        async with asyncio.timeout(DEADLINE_S):
            while (await database.execute(select(hosts.c.is_reachable))).scalars().all() != [expected]:
                await asyncio.sleep(0.1)

    platform.host.silence()
    try:
        await wait_reachable(expected=False)
        assert await layer_store.find(database, team_id, [row.key], shape) == {}
    finally:
        platform.host.answer_again()
    await wait_reachable(expected=True)
    assert list(await layer_store.find(database, team_id, [row.key], shape)) == [row.key]


async def test_a_layer_that_is_lost_while_a_build_begins_costs_only_time(platform: Platform):
    made = await build(platform, ["RUN sleep 1.1; echo a > /srv-a"])
    (layer,) = await layers_of(platform, await team_of(platform, made))
    release = asyncio.Event()
    platform.host.switches.hold["ensure_sandbox"] = release
    platform.host.calls.clear()
    build_id = await begin(platform, ["RUN sleep 1.1; echo a > /srv-a", "RUN echo b > /srv-b"])
    try:
        await platform.host.wait_call("ensure_sandbox")
        shutil.rmtree(platform.host.agent.layout.snapshots / str(layer))
    finally:
        release.set()
        platform.host.switches.hold.clear()
    made = await ended(platform, build_id)
    assert made["status"] == "success", made
    assert await cached(platform, made) == [False, False]
    assert layer not in await layers_of(platform, await team_of(platform, made))
