"""Builds that are cancelled, or whose host's agent is started again, at each step: the outcome is right, and nothing is left.

Five tests run in `make test`, about 25 s.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from sqlalchemy import select

from wrenn.base.faults import arm_faults
from wrenn.control.images import images

from .conftest import DEADLINE_S, Platform
from .test_control_build_layer_faults import wait_nothing_left
from .test_control_build_layers import begin, output
from .test_control_builds import ended

pytestmark = pytest.mark.asyncio(loop_scope="module")

_TO_IMAGE = ["RUN echo built > /srv-built"]
_TO_SNAPSHOT = [*_TO_IMAGE, "START sleep 1000"]
_MANY = pytest.mark.all_faults


@pytest.fixture
def platform(team_platform: Platform) -> Platform:
    return team_platform


@asynccontextmanager
async def held(point: str, path: Path) -> AsyncGenerator[Callable[[], Awaitable[None]]]:
    """Let whoever reaches a fault point wait there until the context ends; provides what waits until it is reached."""

    async def reached() -> None:
        async with asyncio.timeout(DEADLINE_S):
            while not path.exists():
                await asyncio.sleep(0.01)

    arm_faults(f"{point}=hold:{path}")
    try:
        yield reached
    finally:
        arm_faults("")
        path.unlink(missing_ok=True)


async def image_ids(platform: Platform) -> set[str]:
    """Return the images that hosts or the database have."""
    rows = (await platform.control.database.execute(select(images.c.id))).scalars()
    on_host = (str(image.image_id) for image in platform.host.agent.images.list())
    return {value.hex for value in rows} | set(on_host)


async def wait_only_these_left(platform: Platform, had: set[str]) -> None:
    async with asyncio.timeout(DEADLINE_S):
        while platform.host.sandbox_ids or await image_ids(platform) - had:
            await asyncio.sleep(0.05)
    await wait_nothing_left(platform)


@pytest.mark.parametrize(
    ("point", "recipe"),
    [
        ("control.build.after_create", _TO_IMAGE),
        pytest.param("control.build.layer_begun", _TO_IMAGE, marks=_MANY),
        pytest.param("control.build.layer_taken", _TO_IMAGE, marks=_MANY),
        pytest.param("control.build.layer_kept", _TO_IMAGE, marks=_MANY),
        pytest.param("control.build.after_steps", _TO_IMAGE, marks=_MANY),
        pytest.param("control.build.after_pause", _TO_IMAGE, marks=_MANY),
        pytest.param("agent.image.before_flatten", _TO_IMAGE, marks=_MANY),
        pytest.param("agent.image.after_flatten", _TO_IMAGE, marks=_MANY),
        pytest.param("agent.image.before_upload", _TO_IMAGE, marks=_MANY),
        pytest.param("control.image.after_manifest", _TO_IMAGE, marks=_MANY),
        ("control.build.after_upload", _TO_IMAGE),
        pytest.param("control.build.after_take", _TO_SNAPSHOT, marks=_MANY),
    ],
)
async def test_a_build_that_is_cancelled_at_any_step_leaves_nothing(
    platform: Platform, tmp_path: Path, point: str, recipe: list[str]
):
    had = await image_ids(platform)
    async with held(point, tmp_path / "held") as reached:
        build_id = await begin(platform, recipe)
        await reached()
        assert (await platform.api.post(f"/v1/builds/{build_id}/cancel")).status_code == 204
        made = await ended(platform, build_id)
    assert (made["status"], "template_id" in made) == ("cancelled", False)
    assert (await platform.api.get("/v1/templates/own")).status_code == 404
    await wait_only_these_left(platform, had)


@pytest.mark.parametrize(
    ("point", "recipe"),
    [
        pytest.param("agent.image.before_flatten", _TO_IMAGE, marks=_MANY),
        pytest.param("agent.image.after_flatten", _TO_IMAGE, marks=_MANY),
        pytest.param("images.image.before_manifest", _TO_IMAGE, marks=_MANY),
        pytest.param("images.image.before_rename", _TO_IMAGE, marks=_MANY),
        ("agent.image.before_upload", _TO_IMAGE),
        pytest.param("control.image.after_manifest", _TO_IMAGE, marks=_MANY),
        pytest.param("agent.image.after_upload", _TO_IMAGE, marks=_MANY),
        ("agent.snapshot.after_manifest", _TO_SNAPSHOT),
    ],
)
async def test_a_build_whose_agent_is_started_again_at_any_step_ends_well(
    platform: Platform, tmp_path: Path, point: str, recipe: list[str]
):
    had = await image_ids(platform)
    async with held(point, tmp_path / "held") as reached:
        build_id = await begin(platform, recipe)
        await reached()
        await platform.host.restart()
    made = await ended(platform, build_id)
    assert made["status"] == "success", made
    assert await output(platform, "cat /srv-built") == "built\n"
    assert (await platform.api.delete("/v1/templates/own")).status_code == 204
    await wait_only_these_left(platform, had)


async def test_a_store_out_of_reach_holds_up_only_what_needs_it(platform: Platform):
    assert (await ended(platform, await begin(platform, _TO_IMAGE)))["status"] == "success"
    running = await platform.create()
    store = Path(urlsplit(platform.settings.store.url).path)
    aside = store.with_name("store-aside")
    calls = platform.host.calls["ensure_image"]
    store.rename(aside)
    store.write_text("no folder")
    try:
        ran = await platform.api.post(f"{running}/exec", json={"cmd": "echo", "args": ["on"]})
        assert ran.json()["stdout"] == "on\n"
        for verb in ("pause", "resume"):
            assert (await platform.api.post(f"{running}/{verb}")).status_code == 200
        assert await output(platform, "echo created", "minimal") == "created\n"
        assert await output(platform, "cat /srv-built") == "built\n", "the host has the image"
        build_id = await begin(platform, ["RUN echo later > /srv-later"], name="later")
        await platform.host.wait_call("ensure_image", count=calls + 1)
    finally:
        store.unlink()
        aside.rename(store)
    made = await ended(platform, build_id)
    assert made["status"] == "success", made
    assert await output(platform, "cat /srv-later", "later") == "later\n"
    assert (await platform.api.delete(running)).status_code == 204
    for name in ("own", "later"):
        assert (await platform.api.delete(f"/v1/templates/{name}")).status_code == 204
