"""Builds over the real control plane, the real agent and the simulated driver. Costs about 15 s."""

from __future__ import annotations

import asyncio
import contextlib
import io
import json
import os
import tarfile
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select, update

from tests.held_points import held_points
from wrenn.base.ids import BuildId, SandboxId, TeamId
from wrenn.base.secrets import Secret
from wrenn.base.units import MIB
from wrenn.control.audit import SYSTEM
from wrenn.control.builds.tables import builds
from wrenn.control.db import Database, Hints
from wrenn.control.images import images
from wrenn.control.sandboxes import desired_state_store
from wrenn.control.sandboxes.tables import sandboxes
from wrenn.control.templates import templates

from .conftest import BUILDS_LEASE_S, DEADLINE_S, Platform, client, refused
from .event_reader import reading
from .people import sign_up

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest.fixture(scope="module")
def lease_of_module_s() -> float:
    return BUILDS_LEASE_S


@pytest.fixture
def platform(team_platform: Platform) -> Platform:
    return team_platform


async def build(platform: Platform, **body: object) -> dict[str, object]:
    """Begin a build and return it when it has ended."""
    answer = await platform.api.post("/v1/builds", json={"skip_pre_post": True, **body})
    assert answer.status_code == 201, answer.text
    return await ended(platform, answer.json()["id"])


async def ended(platform: Platform, build_id: str) -> dict[str, object]:
    async with asyncio.timeout(2 * DEADLINE_S):
        while True:
            found = (await platform.api.get(f"/v1/builds/{build_id}")).json()
            if found["status"] in ("success", "failed", "cancelled"):
                assert found["completed_at"]
                return found
            await asyncio.sleep(0.1)


async def run(platform: Platform, path: str, command: str) -> dict[str, object]:
    answer = await platform.api.post(f"{path}/exec", json={"cmd": "sh", "args": ["-c", command]})
    assert answer.status_code == 200, answer.text
    return answer.json()


async def test_a_recipe_with_a_started_program_becomes_a_snapshot(platform: Platform):
    made = await build(
        platform,
        name="served",
        recipe=["ENV A=one", "WORKDIR srv/app", "RUN echo $A > built && pwd", "START sleep 1000"],
        healthcheck="--interval=1s test -e built",
    )
    assert (made["status"], made["current_step"], made["total_steps"]) == ("success", 4, 4), made
    template = (await platform.api.get("/v1/templates/served")).json()
    assert (template["id"], template["type"], template["build_id"]) == (
        made["template_id"], "snapshot", made["id"],
    )  # fmt: skip
    assert template["default_env"]["A"] == "one"
    steps = (await platform.api.get(f"/v1/builds/{made['id']}/logs")).json()
    assert [(step["step"], step["ok"], step["ended"]) for step in steps] == [
        (number, True, True) for number in (1, 2, 3, 4)
    ]
    assert steps[2]["stdout"].strip().endswith("/app")
    assert steps[2]["cmd"].startswith("RUN echo")
    # Its sandbox is removed at the end, for which the build does not wait.
    async with asyncio.timeout(DEADLINE_S):
        while made["sandbox_id"] in [each["id"] for each in (await platform.api.get("/v1/sandboxes")).json()]:
            await asyncio.sleep(0.1)


async def test_a_step_that_fails_ends_the_build_with_its_line(platform: Platform):
    made = await build(platform, name="broken", recipe=["RUN true", "RUN echo why >&2; exit 7", "RUN true"])
    assert (made["status"], made["current_step"]) == ("failed", 2)
    assert made["error"] == "line 2: recipe step 2 failed: It ended with exit code 7."
    steps = (await platform.api.get(f"/v1/builds/{made['id']}/logs")).json()
    assert [(step["exit"], step["stderr"]) for step in steps] == [(0, ""), (7, "why\n")]
    refused(await platform.api.get("/v1/templates/broken"), 404, "not_found")
    refused(await platform.api.post(f"/v1/builds/{made['id']}/cancel"), 409, "build_ended")


async def test_a_step_that_floods_its_log_is_bounded_and_the_log_says_so(platform: Platform):
    recipe = ["RUN head -c 3000000 /dev/zero | tr '\\0' x; echo end >&2", "RUN echo after"]
    made = await build(platform, name="loud", recipe=recipe)
    assert made["status"] == "success", made
    path = f"/v1/builds/{made['id']}/logs"
    loud, after = (await platform.api.get(path)).json()
    assert loud["stdout"] == "x" * len(loud["stdout"])
    assert 2**20 - 2**14 <= len(loud["stdout"]) <= 2**20
    assert after["stdout"] == "after\n"
    events = await platform.api.get(path, headers={"Accept": "text/event-stream"})
    (note,) = [frame for frame in events.text.split("\n\n") if "event: note" in frame]
    assert "left out" in note
    assert (await platform.api.delete("/v1/templates/loud")).status_code == 204


async def test_two_builds_of_one_name_at_once_are_two_versions(platform: Platform):
    body: dict[str, object] = {"name": "both", "skip_pre_post": True}
    started = await asyncio.gather(
        *(
            platform.api.post("/v1/builds", json={**body, "tag": tag, "recipe": [f"RUN echo {tag} > /which"]})
            for tag in ("one", "two")
        )
    )
    for answer in started:
        assert (await ended(platform, answer.json()["id"]))["status"] == "success"
    for tag in ("one", "two"):
        path = await platform.create(template=f"both:{tag}")
        ran = await platform.api.post(f"{path}/exec", json={"cmd": "cat", "args": ["/which"]})
        assert ran.json()["stdout"] == f"{tag}\n"
        assert (await platform.api.delete(path)).status_code == 204
    latest = (await platform.api.get("/v1/templates/both")).json()
    assert "latest" in latest["tags"]
    assert (await platform.api.delete("/v1/templates/both")).status_code == 204


async def test_a_running_step_is_cancelled(platform: Platform):
    answer = await platform.api.post(
        "/v1/builds", json={"name": "long", "recipe": ["RUN --timeout=1h sleep 3000"], "skip_pre_post": True}
    )
    build_id = answer.json()["id"]
    async with asyncio.timeout(DEADLINE_S):
        while (await platform.api.get(f"/v1/builds/{build_id}")).json()["current_step"] != 1:
            await asyncio.sleep(0.1)
    assert (await platform.api.post(f"/v1/builds/{build_id}/cancel")).status_code == 204
    made = await ended(platform, build_id)
    assert (made["status"], "error" in made) == ("cancelled", False)


async def test_builds_end_when_who_asked_for_them_loses_access(platform: Platform):
    ada, bob = await sign_up(platform.url), await sign_up(platform.url)
    there = await ada.add(bob)
    key = await ada.make_key(scope="full")
    long = {"name": "long", "recipe": ["RUN --timeout=1h sleep 3000"], "skip_pre_post": True}
    async with client(platform.url, Secret(key["key"])) as api:
        running = [(await api.post("/v1/builds", json=long)).json()["id"]]
        running.append((await there.post("/v1/builds", long)).json()["id"])
        # The third waits, as two of a team run at once.
        waiting = (await api.post("/v1/builds", json={**long, "recipe": ["RUN true"]})).json()["id"]

    async def wait_for(build_id: str, name: str, value: object) -> dict[str, Any]:
        async with asyncio.timeout(DEADLINE_S):
            while (found := (await ada.get(f"/v1/builds/{build_id}")).json()).get(name) != value:
                await asyncio.sleep(0.1)
        return found

    for build_id in running:
        await wait_for(build_id, "current_step", 1)
    assert (await ada.delete(f"/v1/api-keys/{key['id']}")).status_code == 204
    assert (await ada.delete(f"/v1/teams/{ada.team_id}/members/{bob.user_id}")).status_code == 204
    for build_id in (*running, waiting):
        ended = await wait_for(build_id, "status", "cancelled")
        assert "no access" in ended["error"]
    refused(await ada.get("/v1/templates/long"), 404, "not_found")


async def test_a_key_for_sandboxes_replaces_and_deletes_snapshots_only(platform: Platform):
    ada = await sign_up(platform.url)
    made = await ada.post("/v1/builds", {"name": "app", "recipe": ["RUN true"], "skip_pre_post": True})
    assert made.status_code == 201, made.text
    async with asyncio.timeout(DEADLINE_S):
        while (await ada.get("/v1/templates/app")).status_code != 200:
            await asyncio.sleep(0.1)
    key = await ada.make_key(scope="sandboxes")
    async with client(platform.url, Secret(key["key"])) as api:
        body = {"sandbox_id": (await api.post("/v1/sandboxes", json={})).json()["id"]}
        kept = await api.post("/v1/snapshots?overwrite=true", json=body | {"name": "app"})
        assert (kept.status_code, "was built" in kept.text) == (409, True), kept.text
        for path in ("/v1/snapshots/app", "/e2b/templates/app", "/e2b/templates/app:default"):
            answer = await api.delete(path)
            assert (answer.status_code, "was built" in answer.text) == (403, True), (path, answer.text)
        for path in ("/v1/snapshots/mine", "/e2b/templates/mine"):
            for _ in range(2):
                kept = await api.post("/v1/snapshots?overwrite=true", json=body | {"name": "mine"})
                assert kept.status_code == 201, kept.text
            assert (await api.delete(path)).status_code == 204, path
    assert (await ada.get("/v1/templates/app")).json()["type"] == "base"


async def test_nobody_else_uses_or_changes_the_sandbox_of_a_build(
    platform: Platform, subtests: pytest.Subtests
):
    answer = await platform.api.post(
        "/v1/builds", json={"name": "own", "recipe": ["RUN sleep 3000"], "skip_pre_post": True}
    )
    build_id = answer.json()["id"]
    async with asyncio.timeout(DEADLINE_S):
        while (found := (await platform.api.get(f"/v1/builds/{build_id}")).json())["current_step"] != 1:
            await asyncio.sleep(0.1)
    sandbox_id = found["sandbox_id"]
    path = f"/v1/sandboxes/{sandbox_id}"
    listed = (await platform.api.get("/v1/sandboxes")).json()
    assert [each["build_id"] for each in listed if each["id"] == sandbox_id] == [build_id]
    assert (await platform.api.get(path)).json()["build_id"] == build_id
    for method, what, body in (
        ("DELETE", "", None),
        ("POST", "/pause", None),
        ("POST", "/resume", None),
        ("POST", "/fork", {}),
        ("POST", "/ping", None),
        ("POST", "/exec", {"cmd": "true"}),
        ("PATCH", "/timeout", {"lifetime_sec": 1}),
        ("PATCH", "/disk", {"disk_size_mb": 6000}),
        ("PATCH", "/network", {"allow_internet": False}),
        ("POST", "/files/list", {"path": "/"}),
    ):
        with subtests.test(f"{method} {what}"):
            refused(await platform.api.request(method, path + what, json=body), 409, "sandbox_of_build")
    answer = await platform.api.post("/v1/snapshots", json={"sandbox_id": sandbox_id, "name": "taken"})
    refused(answer, 409, "sandbox_of_build")
    assert build_id in answer.json()["error"]["message"]
    port = {"X-Wrenn-Sandbox": sandbox_id, "X-Wrenn-Port": "8000"}
    answer = await platform.api.get("/", headers=port)
    refused(answer, 409, "sandbox_of_build")
    answer = await platform.api.post(f"{path}/ports/8000/link", json={})
    refused(answer, 409, "sandbox_of_build")
    assert (await platform.api.get(path)).json()["status"] == "running"
    assert (await platform.api.post(f"/v1/builds/{build_id}/cancel")).status_code == 204
    assert (await ended(platform, build_id))["status"] == "cancelled"
    # From now on it is as any other, while it is there.
    answer = await platform.api.get("/", headers=port)
    assert answer.json()["error"]["code"] != "sandbox_of_build"
    assert (await platform.api.delete(path)).status_code == 204


async def test_a_build_whose_sandbox_is_paused_begins_again(platform: Platform):
    """As by the drain of its host."""
    answer = await platform.api.post(
        "/v1/builds",
        json={
            "name": "own",
            "recipe": ["RUN until [ -e /go-on ]; do sleep 0.05; done"],
            "skip_pre_post": True,
        },
    )
    path = f"/v1/builds/{answer.json()['id']}"
    async with asyncio.timeout(DEADLINE_S):
        while (found := (await platform.api.get(path)).json())["current_step"] != 1:
            await asyncio.sleep(0.1)
    first = SandboxId.parse(found["sandbox_id"])
    assert await desired_state_store.set_desired_paused(
        platform.control.database, Hints(sender="test"), first, by=SYSTEM
    )
    async with asyncio.timeout(2 * DEADLINE_S):
        while (second := (await platform.api.get(path)).json()["sandbox_id"]) in (None, str(first)):
            await asyncio.sleep(0.1)
        while second not in platform.host.sandbox_ids:
            await asyncio.sleep(0.02)
    (platform.host.root_of(second) / "go-on").touch()
    made = await ended(platform, answer.json()["id"])
    assert made["status"] == "success", made["error"]
    assert made["sandbox_id"] == second
    async with asyncio.timeout(DEADLINE_S):
        while (await platform.api.get(f"/v1/sandboxes/{first}")).json()["status"] != "stopped":
            await asyncio.sleep(0.1)


async def test_sandboxes_that_builds_left_are_removed(platform: Platform):
    path = await platform.create()
    sandbox_id = SandboxId.parse(path.rpartition("/")[2])
    made = await build(platform, name="broken", recipe=["RUN exit 1"])
    await platform.control.database.execute(
        update(sandboxes)
        .where(sandboxes.c.id == sandbox_id.value)
        .values(build_id=BuildId.parse(str(made["id"])).value)
    )
    async with asyncio.timeout(2 * DEADLINE_S):
        while (await platform.api.get(path)).json()["status"] != "stopped":
            await asyncio.sleep(0.1)


async def test_an_archive_that_cannot_be_deleted_keeps_no_sandbox_and_no_other_archive(platform: Platform):
    path = await platform.create()
    sandbox_id = SandboxId.parse(path.rpartition("/")[2])
    made = [
        BuildId.parse(str((await build(platform, name="broken", recipe=["RUN exit 1"]))["id"])) for _ in "ab"
    ]
    # The store refuses to delete a folder, every time.
    stuck, gone = f"platform/uploads/{made[0]}", f"platform/uploads/{made[1]}"
    for key in (f"{stuck}/x", gone):
        await platform.control.objects.put(key, b"x")
    for build_id, key in zip(made, (stuck, gone), strict=True):
        await platform.control.database.execute(
            update(builds).where(builds.c.id == build_id.value).values(archive_key=key)
        )
    await platform.control.database.execute(
        update(sandboxes).where(sandboxes.c.id == sandbox_id.value).values(build_id=made[0].value)
    )
    keys = select(builds.c.archive_key).where(builds.c.archive_key.is_not(None))
    async with asyncio.timeout(2 * DEADLINE_S):
        while (await platform.api.get(path)).json()["status"] != "stopped":
            await asyncio.sleep(0.1)
        while (await platform.control.database.execute(keys)).scalars().all() != [stuck]:
            await asyncio.sleep(0.1)
    await platform.control.objects.delete([f"{stuck}/x"])
    await platform.control.database.execute(update(builds).values(archive_key=None))


async def test_a_build_has_events_of_its_steps(platform: Platform):
    async with reading(platform.api, types="build") as reader:
        made = await build(
            platform, name="watched", recipe=["RUN true", "RUN true", "RUN exit 1"], skip_pre_post=True
        )
        found = await reader.take(6)
    assert [(kind, event["data"]["current_step"]) for kind, event in found] == [
        ("build.created", 0),
        ("build.running", 0),
        ("build.progress", 1),
        ("build.progress", 2),
        ("build.progress", 3),
        ("build.failed", 3),
    ]
    assert {event["resource_id"] for _, event in found} == {made["id"]}
    assert {event["data"]["total_steps"] for _, event in found} == {3}


async def test_the_log_is_streamed_to_its_end_and_from_where_it_broke_off(platform: Platform):
    answer = await platform.api.post(
        "/v1/builds", json={"name": "streamed", "recipe": ["RUN echo out; exit 1"], "skip_pre_post": True}
    )
    path = f"/v1/builds/{answer.json()['id']}/logs"

    async def events(**headers: str) -> list[tuple[str, str, dict[str, object]]]:
        found: list[tuple[str, str, dict[str, object]]] = []
        async with platform.api.stream(
            "GET", path, headers={"Accept": "text/event-stream", **headers}
        ) as reply:
            assert reply.status_code == 200
            text = (await reply.aread()).decode()
        for frame in text.split("\n\n"):
            fields = dict(line.split(": ", 1) for line in frame.splitlines() if ": " in line)
            if "event" in fields:
                found.append((fields["id"], fields["event"], json.loads(fields["data"])))
        return found

    async with asyncio.timeout(DEADLINE_S):
        whole = await events()
    assert [kind for _, kind, _ in whole] == ["step", "output", "done", "end"]
    assert whole[0][2] == {"step": 1, "total": 1, "phase": "recipe", "cmd": "RUN echo out; exit 1"}
    assert (whole[1][2]["stream"], whole[1][2]["text"]) == ("stdout", "out\n")
    assert whole[-1][2]["status"] == "failed"
    assert await events(**{"Last-Event-ID": whole[1][0]}) == whole[2:]
    refused(
        await platform.api.get(path, headers={"Accept": "text/event-stream", "Last-Event-ID": "x"}),
        400,
        "invalid_request",
    )


async def test_the_files_of_the_context_are_on_the_disk_until_the_last_copy(platform: Platform):
    """And not as long as the programs run that come after it."""

    def scratch_files() -> list[str]:
        found: list[str] = []
        for descriptor in Path("/proc/self/fd").iterdir():
            with contextlib.suppress(FileNotFoundError):
                found.append(str(descriptor.readlink()))
        return [path for path in found if "/scratch/" in path]

    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w:gz") as tar:
        entry = tarfile.TarInfo("file")
        entry.size = MIB
        tar.addfile(entry, io.BytesIO(os.urandom(MIB)))
    wait = "RUN --timeout=5m while ! test -e /root/{0}; do sleep 0.1; done"
    recipe = [wait.format("first"), "COPY file /tmp/copied-once", wait.format("second")]
    config = {"name": "held", "recipe": recipe, "skip_pre_post": True}
    answer = await platform.api.post(
        "/v1/builds", data={"config": json.dumps(config)}, files={"archive": ("c.tar.gz", archive.getvalue())}
    )
    path = f"/v1/builds/{answer.json()['id']}"
    async with asyncio.timeout(2 * DEADLINE_S):
        for step, name, count in ((1, "first", 1), (3, "second", 0)):
            while (running := (await platform.api.get(path)).json())["current_step"] != step:
                await asyncio.sleep(0.1)
            assert len(scratch_files()) == count
            (platform.host.root_of(running["sandbox_id"]) / "root" / name).touch()
    made = await ended(platform, answer.json()["id"])
    assert made["status"] == "success", made


async def test_files_of_the_context_are_copied(platform: Platform):
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w:gz") as tar:
        # More than other bodies may have.
        files = {"app/main.txt": b"hello", "app/other.txt": os.urandom(2 * MIB)}
        for name, content in files.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            tar.addfile(entry, io.BytesIO(content))
    config = {
        "name": "copied",
        "recipe": ["COPY app/main.txt /tmp/copied-", "RUN cat /tmp/copied-"],
        "healthcheck": "--interval=1s true",
        "skip_pre_post": True,
    }
    refused(await platform.api.post("/v1/builds", json=config), 400, "invalid_request")
    answer = await platform.api.post(
        "/v1/builds", data={"config": json.dumps(config)}, files={"archive": ("c.tar.gz", archive.getvalue())}
    )
    assert answer.status_code == 201, answer.text
    made = await ended(platform, answer.json()["id"])
    steps = (await platform.api.get(f"/v1/builds/{made['id']}/logs")).json()
    assert [step["stdout"] for step in steps] == ["", "hello"], made
    listed = (await platform.api.get("/v1/builds")).json()
    assert [each["recipe"] for each in listed if each["id"] == made["id"]] == [[]], (
        "texts are only in the build itself"
    )
    # The archive goes with the build.
    async with asyncio.timeout(DEADLINE_S):
        while [
            page async for page in platform.control.objects.pages("") if any("uploads" in o.key for o in page)
        ]:
            await asyncio.sleep(0.1)


async def test_owners_are_those_that_docker_gives(platform: Platform):
    """Files of COPY are root's wherever they go, and what they replace keeps no owner; WORKDIR is made for the current user."""
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w") as tar:
        tar.addfile(tarfile.TarInfo("empty"))
    text = """FROM template://minimal
    WORKDIR /owned
    RUN touch replaced && chown 4242:4242 replaced .
    COPY empty /owned/replaced
    USER 4242:7
    WORKDIR /owned/made/below
    WORKDIR /owned
    RUN stat -c '%u:%g %a %n' /owned /owned/replaced /owned/made /owned/made/below
    """
    config = {"name": "owners", "dockerfile": text, "healthcheck": "--interval=1s true"}
    answer = await platform.api.post(
        "/v1/builds", data={"config": json.dumps(config)}, files={"archive": ("c.tar", archive.getvalue())}
    )
    assert answer.status_code == 201, answer.text
    made = await ended(platform, answer.json()["id"])
    assert made["status"] == "success", made
    steps = (await platform.api.get(f"/v1/builds/{made['id']}/logs")).json()
    assert steps[-1]["stdout"].splitlines() == [
        "4242:4242 755 /owned",
        "0:0 644 /owned/replaced",
        "4242:7 755 /owned/made",
        "4242:7 755 /owned/made/below",
    ]


async def test_a_working_directory_is_not_made_where_something_else_is(platform: Platform):
    made = await build(platform, name="no", recipe=["RUN touch /plain", "WORKDIR /plain/below"])
    assert made["status"] == "failed"
    assert "step 2 failed: It could not create /plain/below" in str(made["error"])


async def test_a_build_that_ends_while_its_team_is_deleted_leaves_nothing(platform: Platform, tmp_path: Path):
    """The deletion waits for the transaction that inserts the template, and removes it too."""
    database = platform.control.database
    person = await sign_up(platform.url, None, "Short")
    team_id = (await person.post("/v1/teams", {"name": "short"})).json()["id"]
    team = await person.at(team_id)
    with held_points(tmp_path, "control.build.finished") as held:
        answer = await team.post(
            "/v1/builds", {"name": "left", "recipe": ["RUN true"], "skip_pre_post": True}
        )
        assert answer.status_code == 201, answer.text
        await held.wait_reached()
        assert await uploaded(database, team_id)
        deleting = asyncio.create_task(team.delete(f"/v1/teams/{team_id}"))
        await asyncio.sleep(0.5)
        held.release()
        assert (await deleting).status_code in (200, 204)
    found = await database.execute(
        select(templates.c.status).where(templates.c.team_id == TeamId.parse(team_id).value)
    )
    assert "ready" not in [row.status for row in found], "layers are swept later"
    images_left = await database.execute(
        select(images.c.status).where(images.c.team_id == TeamId.parse(team_id).value)
    )
    assert "ready" not in [row.status for row in images_left]


async def uploaded(database: Database, team_id: str) -> bool:
    of_team = images.c.team_id == TeamId.parse(team_id).value
    found = await database.execute(select(images.c.id).where(of_team, images.c.manifest_digest.is_not(None)))
    return found.first() is not None


async def test_without_a_started_program_the_disk_becomes_an_image(platform: Platform):
    made = await build(
        platform,
        name="image",
        tag="v1",
        recipe=["ENV A=two", "RUN echo kept > /srv-kept", "WORKDIR /data"],
    )
    assert made["status"] == "success", made
    template = (await platform.api.get("/v1/templates/image:v1")).json()
    assert (template["type"], template["tags"], template["default_env"]["A"]) == (
        "base",
        ["latest", "v1"],
        "two",
    )
    assert template["size_bytes"] > 0
    path = await platform.create(template="image")
    found = await run(platform, path, "echo $A; cat /srv-kept")
    assert str(found["stdout"]).split() == ["two", "kept"]
    # And so has every copy of it.
    (copy,) = (await platform.api.post(f"{path}/fork", json={})).json()["sandboxes"]
    assert str((await run(platform, f"/v1/sandboxes/{copy['id']}", "pwd"))["stdout"]) == "/data\n"
    assert platform.host.record(path.rpartition("/")[2]).spec.template.startswith("img-")


async def test_what_cannot_be_built_is_refused_before_anything_starts(
    platform: Platform, subtests: pytest.Subtests
):
    cases: list[tuple[dict[str, object], str]] = [
        ({"name": "x"}, "recipe or dockerfile"),
        ({"name": "x", "recipe": ["RUN true"], "dockerfile": "FROM a"}, "recipe or dockerfile"),
        ({"name": "-x", "recipe": ["RUN true"]}, "name"),
        ({"name": "x", "recipe": ["RUN true", "NOTHING here"]}, "line 2"),
        ({"name": "x", "dockerfile": "FROM template://minimal\nRUN true\nVOLUMES /x\n"}, "line 3"),
        ({"name": "x", "recipe": ["RUN true"], "vcpus": 0}, "vcpus"),
        ({"name": "x", "recipe": ["RUN true"], "unknown": 1}, "unknown"),
        ({"name": "x", "recipe": ["FROM oci-archive:"]}, "it is missing"),
    ]
    for body, said in cases:
        with subtests.test(str(body)):
            answer = await platform.api.post("/v1/builds", json=body)
            refused(answer, 400, "invalid_request")
            assert said in answer.json()["error"]["message"]
    assert [b for b in (await platform.api.get("/v1/builds")).json() if b["name"] in ("x", "-x")] == []


async def test_an_archive_is_the_base_or_has_files_to_copy_and_not_both(platform: Platform):
    config = {"name": "x", "dockerfile": "FROM docker-archive:\nCOPY a /b\n"}
    answer = await platform.api.post(
        "/v1/builds", data={"config": json.dumps(config)}, files={"archive": ("a.tar", b"anything")}
    )
    refused(answer, 400, "invalid_request")
    assert "cannot copy files" in answer.text


async def test_another_teams_build_is_not_there(platform: Platform):
    from .conftest import client

    made = await build(platform, name="mine", recipe=["RUN exit 1"])
    async with client(platform.url, await platform.other_team("builds-eve")) as stranger:
        for method, path in (("GET", ""), ("GET", "/logs"), ("POST", "/cancel")):
            refused(await stranger.request(method, f"/v1/builds/{made['id']}{path}"), 404, "not_found")
        assert (await stranger.get("/v1/builds")).json() == []


async def test_what_a_step_writes_is_followed_while_it_runs(platform: Platform):
    recipe = ["RUN --timeout=5m echo begun; while ! test -e /root/go; do sleep 0.1; done; echo ended"]
    answer = await platform.api.post(
        "/v1/builds", json={"name": "followed", "recipe": recipe, "skip_pre_post": True}
    )
    path = f"/v1/builds/{answer.json()['id']}"
    async with asyncio.timeout(2 * DEADLINE_S):
        while "begun" not in (await platform.api.get(f"{path}/logs")).text:
            await asyncio.sleep(0.1)
        running = (await platform.api.get(path)).json()
        assert running["status"] == "running"
        box = running["sandbox_id"]
        (platform.host.root_of(box) / "root/go").touch()
        made = await ended(platform, answer.json()["id"])
        assert made["status"] == "success", made
        steps = (await platform.api.get(f"{path}/logs")).json()
        assert [step["stdout"] for step in steps] == ["begun\nended\n"]
