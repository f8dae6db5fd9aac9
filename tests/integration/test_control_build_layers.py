"""The layer cache of builds, over the real control plane, the real agent and the simulated driver. Costs about 45 s."""

from __future__ import annotations

import asyncio
import io
import json
import tarfile
import uuid
from collections.abc import Sequence
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import bindparam, func, select, text, update
from sqlalchemy.dialects.postgresql import JSONB

from wrenn.base.errors import Unavailable
from wrenn.base.ids import SandboxId, SnapshotId, TeamId
from wrenn.base.units import MIB
from wrenn.control.builds import layer_store
from wrenn.control.builds.tables import build_bases, build_layers, builds
from wrenn.control.hosts import HostClient, ProcessEnd, StartProcess, hosts
from wrenn.control.templates import templates

from .conftest import BUILDS_LEASE_S, DEADLINE_S, Platform
from .test_control_builds import ended

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest.fixture(scope="module")
def lease_of_module_s() -> float:
    return BUILDS_LEASE_S


# Each tells one run of itself from another.
_ONCE = "RUN cat /proc/sys/kernel/random/uuid > {}"


@pytest.fixture
def platform(team_platform: Platform) -> Platform:
    return team_platform


async def begin(platform: Platform, recipe: Sequence[str], **body: object) -> str:
    fields = {"name": "own", "skip_pre_post": True, "recipe": list(recipe), **body}
    answer = await platform.api.post("/v1/builds", json=fields)
    assert answer.status_code == 201, answer.text
    return answer.json()["id"]


async def build(platform: Platform, recipe: Sequence[str], **body: object) -> dict[str, Any]:
    made = await ended(platform, await begin(platform, recipe, **body))
    assert made["status"] == "success", made
    return made


async def cached(platform: Platform, made: dict[str, Any]) -> list[bool]:
    """Return of each step whether it was taken from the cache."""
    steps = (await platform.api.get(f"/v1/builds/{made['id']}/logs")).json()
    assert all(step["ok"] and step["ended"] for step in steps)
    return [step["cached"] for step in steps]


async def output(platform: Platform, command: str, template: str = "own") -> str:
    path = await platform.create(template=template)
    try:
        answer = await platform.api.post(f"{path}/exec", json={"cmd": "sh", "args": ["-c", command]})
        assert answer.status_code == 200, answer.text
        return answer.json()["stdout"]
    finally:
        assert (await platform.api.delete(path)).status_code == 204


async def team_of(platform: Platform, made: dict[str, Any]) -> TeamId:
    found = await platform.control.database.execute(
        select(builds.c.team_id).where(builds.c.template_id == made["template_id"]).limit(1)
    )
    return TeamId(found.scalar_one())


async def layers_of(platform: Platform, team_id: TeamId) -> list[SnapshotId]:
    found = await platform.control.database.execute(
        select(build_layers.c.snapshot_id).where(build_layers.c.team_id == team_id.value)
    )
    return [SnapshotId(value) for value in found.scalars()]


async def test_a_build_begins_after_the_steps_that_are_cached(platform: Platform):
    first = [_ONCE.format("/srv-one"), "ENV A=one", _ONCE.format("/srv-two")]
    await build(platform, first)
    was = await output(platform, "cat /srv-one /srv-two")
    # Nothing differs: a new version has the same image, and no sandbox was started.
    same = await build(platform, first, tag="again")
    assert await cached(platform, same) == [True, True, True]
    assert "sandbox_id" not in same
    assert await output(platform, "cat /srv-one /srv-two", "own:again") == was
    # A step at the end: those before it are not run again.
    longer = await build(platform, [*first, _ONCE.format("/srv-three")])
    assert await cached(platform, longer) == [True, True, True, False]
    assert (await output(platform, "cat /srv-one /srv-two; echo $A")) == was + "one\n"
    # Variables alone change no disk.
    other = await build(platform, [*first, "ENV B=two"], name="other")
    assert await cached(platform, other) == [True] * 4
    assert await output(platform, "echo $B", "other") == "two\n"


async def test_no_cache_runs_every_step_and_replaces_the_layers(platform: Platform):
    recipe = [_ONCE.format("/srv-one")]
    made = await build(platform, recipe)
    was = await output(platform, "cat /srv-one")
    fresh = await build(platform, recipe, no_cache=True)
    assert await cached(platform, fresh) == [False]
    new = await output(platform, "cat /srv-one")
    assert new != was
    assert await cached(platform, await build(platform, recipe)) == [True]
    assert await output(platform, "cat /srv-one") == new
    assert len(await layers_of(platform, await team_of(platform, made))) == 1


async def test_another_version_of_the_base_is_another_base(platform: Platform):
    step = _ONCE.format("/srv-own")
    await build(platform, ["RUN echo one > /srv-base"], name="base")
    assert await cached(platform, await build(platform, ["FROM base", step])) == [False]
    was = await output(platform, "cat /srv-own /srv-base")
    assert await cached(platform, await build(platform, ["FROM base", step])) == [True]
    await build(platform, ["RUN echo two > /srv-base"], name="base")
    assert await cached(platform, await build(platform, ["FROM base", step])) == [False]
    now = await output(platform, "cat /srv-own /srv-base")
    assert now != was
    assert now.endswith("two\n")


async def test_a_version_of_the_base_with_the_same_image_and_defaults_is_the_same_base(platform: Platform):
    base = [_ONCE.format("/srv-base")]
    step = "RUN echo $A > /srv-own"
    await build(platform, base, name="base")
    assert await cached(platform, await build(platform, ["FROM base", step])) == [False]
    assert await cached(platform, await build(platform, base, name="base")) == [True]
    assert await cached(platform, await build(platform, ["FROM base", step])) == [True]
    assert await cached(platform, await build(platform, [*base, "ENV A=1"], name="base")) == [True, True]
    assert await cached(platform, await build(platform, ["FROM base", step])) == [False]
    assert await output(platform, "cat /srv-own") == "1\n"
    assert await cached(platform, await build(platform, base, name="base")) == [True]
    assert await cached(platform, await build(platform, ["FROM base", step])) == [True]
    assert await output(platform, "cat /srv-own") == "\n", "the variable is not in this version"


async def test_a_build_on_a_host_with_another_version_has_no_layers(
    platform: Platform, monkeypatch: pytest.MonkeyPatch
):
    recipe = [_ONCE.format("/srv-own")]
    monkeypatch.setattr("wrenn.control.builds.bases._VERSION", "0.0.0-next")
    made = await build(platform, recipe)
    assert await layers_of(platform, await team_of(platform, made)) == []
    assert await cached(platform, await build(platform, recipe)) == [False]
    monkeypatch.undo()
    assert await cached(platform, await build(platform, recipe)) == [False]
    assert await cached(platform, await build(platform, recipe)) == [True]


@pytest.mark.asyncio(loop_scope="function")
async def test_steps_run_again_on_a_minimal_that_the_host_built_again(own_platform: Platform):
    platform, recipe = own_platform, [_ONCE.format("/srv-own")]

    async def rebuild(content: str) -> None:
        platform.host.templates = {"minimal": content}
        await platform.host.restart()
        await until_reported(platform, content)

    await rebuild("a1" * 32)
    assert await cached(platform, await build(platform, recipe)) == [False]
    first = await build(platform, recipe)
    assert await cached(platform, first) == [True]
    await rebuild("b2" * 32)
    second = await build(platform, recipe)
    assert await cached(platform, second) == [False]
    assert await cached(platform, await build(platform, recipe)) == [True]
    await rebuild("a1" * 32)
    again = await build(platform, recipe)
    assert await cached(platform, again) == [True], "it is what it was"


@pytest.mark.asyncio(loop_scope="function")
async def test_a_build_on_a_host_whose_minimal_differs_from_that_of_most_has_no_layers(
    own_platform: Platform,
):
    platform, recipe = own_platform, [_ONCE.format("/srv-own")]
    platform.host.templates = {"minimal": "a1" * 32}
    await platform.host.restart()
    await until_reported(platform, "a1" * 32)
    others = [
        {"id": uuid.uuid4(), "name": f"other-{number}", "status": "online", "contents": {"minimal": content}}
        for number, content in enumerate(["b2" * 32] * 2)
    ]
    insert_host = text(
        "INSERT INTO hosts (id, name, status, template_contents) VALUES (:id, :name, :status, :contents)"
    ).bindparams(bindparam("contents", type_=JSONB))
    for other in others:
        await platform.control.database.execute(insert_host, other)
    made = await build(platform, recipe)
    assert await layers_of(platform, await team_of(platform, made)) == []
    assert await cached(platform, await build(platform, recipe)) == [False]
    await platform.control.database.execute(text("DELETE FROM hosts WHERE name LIKE 'other-%'"))
    assert await cached(platform, await build(platform, recipe)) == [False]
    assert await cached(platform, await build(platform, recipe)) == [True]


async def until_reported(platform: Platform, content: str) -> None:
    reported = select(hosts.c.template_contents["minimal"].astext)
    async with asyncio.timeout(DEADLINE_S):
        while (await platform.control.database.execute(reported)).scalar_one() != content:
            await asyncio.sleep(0.05)


async def test_arguments_and_sizes_are_part_of_the_key(platform: Platform):
    text = "FROM template://minimal\nARG A=1\nRUN echo $A > /srv-a\n"

    async def with_(**body: object) -> list[bool]:
        answer = await platform.api.post("/v1/builds", json={"name": "own", "dockerfile": text, **body})
        made = await ended(platform, answer.json()["id"])
        assert made["status"] == "success", made
        return await cached(platform, made)

    assert await with_() == [False]
    assert await with_(build_args={"A": "1"}) == [True]
    assert await with_(build_args={"A": "2"}) == [False]
    assert await output(platform, "cat /srv-a") == "2\n"
    # Steps see the size of their sandbox.
    assert await with_(memory_mb=256, build_args={"A": "2"}) == [False]
    assert await with_(disk_size_mb=6000) == [False]


async def test_files_that_changed_are_copied_again(platform: Platform):
    async def copied(content: bytes) -> list[bool]:
        archive = io.BytesIO()
        with tarfile.open(fileobj=archive, mode="w") as tar:
            entry = tarfile.TarInfo("file")
            entry.size = len(content)
            tar.addfile(entry, io.BytesIO(content))
        config = {"name": "own", "recipe": ["RUN true", "COPY file /srv-file"], "skip_pre_post": True}
        answer = await platform.api.post(
            "/v1/builds",
            data={"config": json.dumps(config)},
            files={"archive": ("c.tar", archive.getvalue())},
        )
        made = await ended(platform, answer.json()["id"])
        assert made["status"] == "success", made
        assert await output(platform, "cat /srv-file") == content.decode()
        return await cached(platform, made)

    assert await copied(b"one") == [False, False]
    assert await copied(b"one") == [True, True]
    assert await copied(b"two") == [False, False]


async def test_a_started_program_is_started_anew_or_the_same_template_is_taken(platform: Platform):
    recipe = [_ONCE.format("/srv-one"), "START sleep 1000"]
    check = "--interval=0.1s true"
    first = await build(platform, recipe, healthcheck=check)
    was = await output(platform, "cat /srv-one")
    same = await build(platform, recipe, healthcheck=check, tag="v2")
    assert same["template_id"] == first["template_id"]
    assert await cached(platform, same) == [True, True]
    assert (await platform.api.get("/v1/templates/own:v2")).json()["tags"] == ["latest", "v2"]
    entries = (await platform.api.get("/v1/audit-logs")).json()["items"]
    tagged = [entry for entry in entries if entry["action"] == "template.tag" or entry["action"] == "tag"]
    assert tagged, [entry["action"] for entry in entries]
    # Another name needs memory of its own.
    other = await build(platform, recipe, healthcheck=check, name="other")
    assert await cached(platform, other) == [True, False]
    assert await output(platform, "cat /srv-one", "other") == was
    # And so does another program.
    changed = await build(platform, [recipe[0], "START sleep 2000"], healthcheck=check)
    assert await cached(platform, changed) == [True, False]
    assert changed["template_id"] != first["template_id"]


async def test_teams_share_no_layers(platform: Platform, platform_of_module: Platform):
    recipe = [_ONCE.format("/srv-one")]
    await build(platform, recipe)
    assert await cached(platform_of_module, await build(platform_of_module, recipe)) == [False]


async def test_layers_are_hidden_and_count_for_no_quota(platform: Platform):
    made = await build(platform, ["RUN echo kept > /srv-kept", "ENV A=1"], healthcheck="--interval=0.1s true")
    (layer,) = await layers_of(platform, await team_of(platform, made))
    listed = (await platform.api.get("/v1/templates")).json()
    assert [each["id"] for each in listed if not each["platform"]] == [made["template_id"]], listed
    assert (await platform.api.get(f"/v1/templates/{layer.value}")).status_code == 404
    answer = await platform.api.post("/v1/sandboxes", json={"template": str(layer.value)})
    assert answer.status_code == 404
    assert (await platform.api.delete(f"/v1/snapshots/{layer.value}")).status_code == 404
    assert str(layer) in platform.host.snapshot_ids


async def test_a_layer_that_cannot_be_restored_is_dropped_and_the_step_runs_again(
    platform: Platform,
):
    recipe = [_ONCE.format("/srv-one")]
    made = await build(platform, recipe)
    (layer,) = await layers_of(platform, await team_of(platform, made))
    (platform.host.agent.layout.snapshots / str(layer) / "state").write_text("damaged")
    longer = await build(platform, [*recipe, "RUN true"])
    assert await cached(platform, longer) == [False, False]
    assert layer not in await layers_of(platform, await team_of(platform, made))
    async with asyncio.timeout(DEADLINE_S):
        while str(layer) in platform.host.snapshot_ids:
            await asyncio.sleep(0.1)


async def test_the_least_recently_used_layers_go_first_but_none_that_a_build_uses(
    platform: Platform,
):
    made = await build(
        platform, ["RUN sleep 1.1; echo a > /srv-a", "RUN sleep 1.1; echo b > /srv-b", "RUN echo c > /srv-c"]
    )
    team_id = await team_of(platform, made)
    assert len(await layers_of(platform, team_id)) == 3
    oldest = (
        await platform.control.database.execute(
            select(build_layers.c.snapshot_id)
            .where(build_layers.c.team_id == team_id.value)
            .order_by(build_layers.c.last_used_at)
            .limit(1)
        )
    ).scalar_one()
    await platform.control.database.execute(
        update(builds)
        .where(builds.c.template_id == made["template_id"])
        .values(layer_id=oldest, completed_at=None, status="running", is_cancel_requested=False)
    )
    await platform.control.database.transaction(lambda tx: layer_store.remove_excess(tx, team_id, most_b=0))
    assert await layers_of(platform, team_id) == [SnapshotId(oldest)]
    await platform.control.database.execute(
        update(builds)
        .where(builds.c.template_id == made["template_id"])
        .values(completed_at=func.now(), status="success")
    )
    await platform.control.database.transaction(lambda tx: layer_store.remove_excess(tx, team_id, most_b=0))
    assert await layers_of(platform, team_id) == []
    async with asyncio.timeout(DEADLINE_S):
        while (
            await platform.control.database.execute(
                select(templates.c.id).where(templates.c.team_id == team_id.value, templates.c.name.is_(None))
            )
        ).first() is not None:
            await asyncio.sleep(0.1)


async def test_parts_of_disks_count_once_and_as_long_as_a_layer_has_them(platform: Platform):
    big_b = 4 * MIB
    made = await build(
        platform,
        [
            f"RUN sleep 1.1; head -c {big_b} /dev/urandom > /srv-big",
            "RUN sleep 1.1; echo b > /srv-b",
            "RUN echo c > /srv-c",
        ],
    )
    team_id = await team_of(platform, made)
    database = platform.control.database
    before, after, large = await layers_of(platform, team_id)

    async def remove_excess(most_b: int) -> list[SnapshotId]:
        await database.transaction(lambda tx: layer_store.remove_excess(tx, team_id, most_b=most_b))
        return await layers_of(platform, team_id)

    async def give(layer: SnapshotId, files_b: int, parts: dict[str, int]) -> None:
        values = {"size_bytes": files_b, "layers": parts}
        await database.execute(update(templates).where(templates.c.id == layer.value).values(values))

    found = await database.execute(select(templates.c.layers).where(templates.c.id == before.value))
    assert sum(found.scalar_one().values()) >= big_b, "the host says what the steps wrote"
    await give(before, 1, {"lower": 5})
    await give(after, 1, {"upper": 2, "lower": 5})
    await give(large, 1, {"alone": 9})
    assert await remove_excess(9) == [before, after], "one that does not fit removes no other"
    assert await remove_excess(8) == [after]
    assert await remove_excess(7) == [], "the lower part is still on the disk"


async def test_old_layers_are_removed(platform: Platform):
    made = await build(platform, ["RUN sleep 1.1; echo a > /srv-a", "RUN echo b > /srv-b"])
    team_id = await team_of(platform, made)
    old, new = await layers_of(platform, team_id)
    await platform.control.database.execute(
        update(build_layers)
        .where(build_layers.c.snapshot_id == old.value)
        .values(created_at=func.now() - timedelta(seconds=layer_store.LAYER_AGE_S + 1))
    )
    await layer_store.remove_old(platform.control.database)
    assert await layers_of(platform, team_id) == [new]
    async with asyncio.timeout(DEADLINE_S):
        while str(old) in platform.host.snapshot_ids:
            await asyncio.sleep(0.1)


async def test_nothing_becomes_newer_by_being_used(platform: Platform):
    """Of 7 days, contents of 6 days are used; what was made of them is as old."""
    database = platform.control.database
    recipe = [_ONCE.format("/srv-one")]
    team_id = await team_of(platform, await build(platform, recipe))

    async def age(hours: int) -> None:
        by = timedelta(hours=hours)
        for column in (build_layers.c.created_at, templates.c.built_at):
            await database.execute(
                update(column.table)
                .where(column.table.c.team_id == team_id.value)
                .values({column: column - by})
            )

    await age(6 * 24)
    # The layer, and a layer on it.
    longer = [*recipe, _ONCE.format("/srv-two")]
    assert await cached(platform, await build(platform, longer, name="longer")) == [True, False]
    # A template, and a template with the same image.
    assert await cached(platform, await build(platform, recipe, tag="again")) == [True]
    await age(25)
    assert await cached(platform, await build(platform, longer, name="longer")) == [False, False]
    assert await cached(platform, await build(platform, recipe, tag="again")) == [False]


async def test_a_template_with_memory_is_not_taken_when_it_is_old(platform: Platform):
    recipe = ["START sleep 1000"]
    first = await build(platform, recipe)
    assert (await build(platform, recipe))["template_id"] == first["template_id"]
    await platform.control.database.execute(
        update(templates)
        .where(templates.c.id == first["template_id"])
        .values(built_at=func.now() - timedelta(seconds=layer_store.LAYER_AGE_S + 1))
    )
    assert (await build(platform, recipe))["template_id"] != first["template_id"]


async def test_a_host_that_fails_says_nothing_about_the_variables_of_a_base(
    platform: Platform, monkeypatch: pytest.MonkeyPatch
):
    ask = HostClient.exec
    failures = 0

    async def fail_once(
        self: HostClient, sandbox_id: SandboxId, start: StartProcess, take: Any
    ) -> ProcessEnd:
        nonlocal failures
        if start.cmd == "env" and not failures:
            failures += 1
            raise Unavailable("The host does not answer.")
        return await ask(self, sandbox_id, start, take)

    monkeypatch.setattr(HostClient, "exec", fail_once)
    recipe = ["RUN echo $PATH > /srv-path"]
    made = await build(platform, recipe)
    assert failures == 1
    found = await platform.control.database.execute(
        select(build_bases.c.environment).where(
            build_bases.c.team_id == (await team_of(platform, made)).value
        )
    )
    (environment,) = found.scalars()
    assert environment["PATH"] == (await output(platform, "cat /srv-path")).strip()
    assert await cached(platform, await build(platform, recipe)) == [True]


async def test_two_builds_of_one_recipe_at_once_keep_one_layer(platform: Platform):
    recipe = ["RUN sleep 0.5; echo a > /srv-a"]
    one, two = [await begin(platform, recipe, name=name) for name in ("one", "two")]
    made = await ended(platform, one)
    assert made["status"] == (await ended(platform, two))["status"] == "success"
    assert len(await layers_of(platform, await team_of(platform, made))) == 1


async def test_a_running_build_goes_on_when_its_base_is_deleted(
    platform: Platform,
):
    await build(platform, ["RUN echo base > /srv-base"], name="base")
    recipe = ["FROM base", "RUN sleep 1.1; echo a > /srv-a"]
    await build(platform, recipe)
    running = await begin(platform, [*recipe, "RUN sleep 1; cat /srv-base /srv-a > /srv-all"])
    async with asyncio.timeout(DEADLINE_S):
        while (await platform.api.get(f"/v1/builds/{running}")).json()["current_step"] != 2:
            await asyncio.sleep(0.05)
    assert (await platform.api.delete("/v1/templates/base")).status_code == 204
    made = await ended(platform, running)
    assert made["status"] == "success", made
    assert await output(platform, "cat /srv-all") == "base\na\n"
