"""kill -9 of the control plane at each step of a build: another attempt finishes it, and nothing is left of the first.

Five tests run in `make test`, about 60 s.
"""

from __future__ import annotations

import asyncio
import contextlib
from pathlib import Path

import httpx2
import pytest
from sqlalchemy import select

from wrenn.control.builds.tables import builds
from wrenn.control.db import Database
from wrenn.control.images import images
from wrenn.control.templates import templates
from wrenn.testing.agent_host import AgentHost

from .conftest import environment_of, make_team
from .test_control_crash import Crashing, died
from .test_e2b_builder import archive

_DEADLINE_S = 40.0
_TO_IMAGE = ["RUN echo built > /built"]
_TO_SNAPSHOT = [*_TO_IMAGE, "START sleep 1000"]
_MANY = pytest.mark.all_faults


@pytest.fixture
async def crashing(data_dir: Path, database_url: str, host: AgentHost, unused_tcp_port: int) -> Crashing:
    environment = environment_of(data_dir, database_url)
    return Crashing(environment, unused_tcp_port, await make_team(database_url, "ada"), host)


async def succeeded(api: httpx2.AsyncClient, build_id: str) -> None:
    """Wait until the build has ended, with success."""
    async with asyncio.timeout(_DEADLINE_S):
        while (found := (await api.get(f"/v1/builds/{build_id}")).json())["status"] in ("pending", "running"):
            await asyncio.sleep(0.1)
    assert found["status"] == "success", (
        found["error"],
        (await api.get(f"/v1/builds/{build_id}/logs")).json(),
    )


@pytest.mark.parametrize(
    ("fault", "recipe"),
    [
        pytest.param("control.build.after_lease", _TO_IMAGE, marks=_MANY),
        pytest.param("control.build.after_create", _TO_IMAGE, marks=_MANY),
        pytest.param("control.build.layer_begun", _TO_IMAGE, marks=_MANY),
        ("control.build.layer_taken", _TO_IMAGE),
        pytest.param("control.build.layer_kept", _TO_SNAPSHOT, marks=_MANY),
        pytest.param("control.build.after_steps", _TO_IMAGE, marks=_MANY),
        pytest.param("control.build.after_pause", _TO_IMAGE, marks=_MANY),
        ("control.build.after_upload", _TO_IMAGE),
        ("control.build.after_take", _TO_SNAPSHOT),
    ],
)
async def test_a_build_is_finished_by_another_attempt_after_a_kill(
    crashing: Crashing, host: AgentHost, database: Database, fault: str, recipe: list[str]
):
    build_id = ""
    body = {"name": "own", "recipe": recipe, "skip_pre_post": True}
    async with crashing.started(f"{fault}=kill") as (api, process):
        with contextlib.suppress(httpx2.TransportError):
            build_id = (await api.post("/v1/builds", json=body)).json()["id"]
        await died(process)
    async with crashing.started() as (api, _):
        await succeeded(api, build_id)
        made = await api.post("/v1/sandboxes", json={"template": "own"})
        assert made.status_code == 201, made.text
        path = f"/v1/sandboxes/{made.json()['id']}"
        ran = await api.post(f"{path}/exec", json={"cmd": "cat", "args": ["/built"]})
        assert ran.json()["stdout"] == "built\n"
        assert (await api.delete(path)).status_code == 204
        is_image = recipe is _TO_IMAGE
        async with asyncio.timeout(_DEADLINE_S):
            while (
                host.sandbox_ids
                # And the layer after the last step.
                or len(host.snapshot_ids) != 1 + (not is_image)
                or len((await database.execute(select(images.c.id))).all()) != is_image
                or len((await database.execute(select(templates.c.id))).all()) != 3
            ):
                await asyncio.sleep(0.1)


async def test_a_build_that_began_from_a_layer_is_finished_by_another_attempt_after_a_kill(
    crashing: Crashing, host: AgentHost, database: Database
):
    async with crashing.started("control.build.layer_claimed=kill") as (api, process):
        body = {"name": "own", "recipe": _TO_IMAGE, "skip_pre_post": True}
        await succeeded(api, (await api.post("/v1/builds", json=body)).json()["id"])
        # The first layer; the second build begins from it.
        assert len(host.snapshot_ids) == 1
        body["recipe"] = [*_TO_IMAGE, "RUN cat /built > /again"]
        build_id = (await api.post("/v1/builds", json=body)).json()["id"]
        await died(process)
    async with crashing.started() as (api, _):
        await succeeded(api, build_id)
        steps = (await api.get(f"/v1/builds/{build_id}/logs")).json()
        assert [step["cached"] for step in steps] == [True, False]
        async with asyncio.timeout(_DEADLINE_S):
            while (
                host.sandbox_ids
                or len(host.snapshot_ids) != 2
                or len((await database.execute(select(images.c.id))).all()) != 1
            ):
                await asyncio.sleep(0.1)


async def test_the_sandboxes_of_all_stages_are_removed_after_a_kill(
    crashing: Crashing, host: AgentHost, database: Database
):
    text = "FROM template://minimal AS a\nRUN echo built > /a\nFROM template://minimal\nRUN true\nCOPY --from=a /a /built"
    async with crashing.started("control.build.stage_ran=kill") as (api, process):
        answer = await api.post("/v1/builds", json={"name": "own", "dockerfile": text})
        await died(process)
        assert len(host.sandbox_ids) == 1
    async with crashing.started() as (api, _):
        await succeeded(api, answer.json()["id"])
        async with asyncio.timeout(_DEADLINE_S):
            while (
                host.sandbox_ids
                # The last layer of each stage.
                or len(host.snapshot_ids) != 2
                or len((await database.execute(select(images.c.id))).all()) != 1
            ):
                await asyncio.sleep(0.1)


async def test_with_a_limit_of_zero_every_step_runs(crashing: Crashing, host: AgentHost):
    crashing.environment["WRENN_BUILD_CACHE_MB"] = "0"
    async with crashing.started() as (api, _):
        body = {"name": "own", "recipe": _TO_SNAPSHOT, "skip_pre_post": True}
        await succeeded(api, (await api.post("/v1/builds", json=body)).json()["id"])
        # That of the template.
        assert len(host.snapshot_ids) == 1
        body["name"] = "other"
        build_id = (await api.post("/v1/builds", json=body)).json()["id"]
        await succeeded(api, build_id)
        steps = (await api.get(f"/v1/builds/{build_id}/logs")).json()
        assert [step["cached"] for step in steps] == [False, False]


async def test_what_was_cut_off_of_an_announced_build_is_sent_again_after_a_kill(
    crashing: Crashing, database: Database
):
    files_hash = "ab" * 32
    body = {
        "fromTemplate": "minimal",
        "steps": [
            {"type": "COPY", "args": ["f", "/tmp/f"], "filesHash": files_hash},
            {"type": "RUN", "args": ["grep kept /tmp/f"]},
        ],
    }
    async with crashing.started("control.e2b.files_stored=kill") as (api, process):
        build = (await api.post("/e2b/v3/templates", json={"name": "own"})).json()
        link = f"/e2b/templates/own/files/{files_hash}"
        url = (await api.get(link)).json()["url"]
        with contextlib.suppress(httpx2.TransportError):
            await api.put(url, content=archive(f="broken off"))
        await died(process)
    steps = f"/e2b/v2/templates/own/builds/{build['buildID']}"
    async with crashing.started("control.e2b.files_packed=kill") as (api, process):
        assert (await api.put(url, content=archive(f="kept"))).status_code == 404, "a link is for one use"
        another = (await api.get(link)).json()
        assert not another["present"]
        assert (await api.put(another["url"], content=archive(f="kept"))).status_code == 204
        with contextlib.suppress(httpx2.TransportError):
            await api.post(steps, json=body)
        await died(process)
    async with crashing.started() as (api, _):
        path = f"/e2b/templates/own/builds/{build['buildID']}/status"
        assert (await api.get(path)).json()["status"] == "waiting"
        assert (await api.post(steps, json=body)).status_code == 202
        assert (await api.post(steps, json=body)).status_code == 409
        async with asyncio.timeout(_DEADLINE_S):
            while (found := (await api.get(path)).json())["status"] in ("waiting", "building"):
                await asyncio.sleep(0.1)
        assert found["status"] == "ready", found
    assert len((await database.execute(select(builds.c.id))).all()) == 1
