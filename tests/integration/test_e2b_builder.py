"""The template builder of the e2b API: what no SDK sends, tenants, links for uploads, and what stays when something fails."""

from __future__ import annotations

import io
import tarfile
import time
import uuid
from functools import partial
from pathlib import Path
from typing import Any

import httpx2
import pytest
from sqlalchemy import func, select

from tests.integration.conftest import BUILDS_LEASE_S, Platform
from wrenn.base.errors import InvalidState, NotFound
from wrenn.base.ids import BuildId, KeyId, TeamId
from wrenn.base.secrets import Secret
from wrenn.control.builds import ScratchSpace, login_store
from wrenn.control.builds.store import QUEUE_LOCK
from wrenn.control.db import Database, Transaction
from wrenn.control.e2b import BuilderFiles, BuilderRetention
from wrenn.control.e2b.builder_files import key_of
from wrenn.control.e2b.tables import announced_builds
from wrenn.control.objects import ObjectStore
from wrenn.control.registries import ImageLogin

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest.fixture(scope="module")
def lease_of_module_s() -> float:
    return BUILDS_LEASE_S


HASH = "ab" * 32


def archive(**files: str) -> bytes:
    """A tar file."""
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w:gz") as tar:
        for name, text in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(text)
            tar.addfile(info, io.BytesIO(text.encode()))
    return content.getvalue()


async def announced(api: httpx2.AsyncClient, **body: Any) -> dict[str, Any]:
    answer = await api.post("/e2b/v3/templates", json={"name": f"b-{uuid.uuid4().hex[:8]}", **body})
    assert answer.status_code == 202, answer.text
    return answer.json()


async def start(api: httpx2.AsyncClient, build: dict[str, Any], **body: Any) -> httpx2.Response:
    path = f"/e2b/v2/templates/{build['templateID']}/builds/{build['buildID']}"
    return await api.post(path, json={"fromTemplate": "minimal", **body})


async def status(api: httpx2.AsyncClient, build: dict[str, Any]) -> dict[str, Any]:
    path = f"/e2b/templates/{build['templateID']}/builds/{build['buildID']}/status"
    return (await api.get(path)).json()


async def ended(api: httpx2.AsyncClient, build: dict[str, Any]) -> dict[str, Any]:
    deadline = time.monotonic() + 30
    while (found := await status(api, build))["status"] in ("waiting", "building"):
        assert time.monotonic() < deadline
    return found


@pytest.mark.parametrize(
    "body",
    [
        {"name": "Upper"}, {"name": "a b"}, {"name": "team/name"}, {"name": "-a"}, {"name": ""}, {}, {"name": "a" * 65},
        {"name": "ok:tag/x"}, {"name": "ok", "tags": ["a b"]}, {"name": "ok", "tags": ["x"] * 33},
        {"name": "ok", "cpuCount": 10_000}, {"name": "ok", "memoryMB": 1}, {"name": "ok", "cpuCount": "2"},
    ],
)  # fmt: skip
async def test_a_build_that_cannot_be_is_refused_when_it_is_announced(
    platform_of_module: Platform, body: dict[str, Any]
) -> None:
    api = platform_of_module.api
    answer = await api.post("/e2b/v3/templates", json=body)
    assert answer.status_code == 400, answer.text
    assert answer.json()["code"] == 400


_BAD_STEPS: list[tuple[dict[str, Any], str, int]] = [
        ({"steps": [{"type": "RUN", "args": []}]}, "step 1: RUN", 400),
        ({"steps": [{"type": "RUN", "args": ["true"]}, {"type": "ADD", "args": ["a", "b"]}]}, "step 2: there is no step", 400),
        ({"steps": [{"type": "ENV", "args": ["A"]}]}, "pairs", 400),
        ({"steps": [{"type": "ENV", "args": ["A B", "x"]}]}, "step 1", 400),
        ({"steps": [{"type": "USER", "args": ["a b"]}]}, "name of a user", 400),
        ({"steps": [{"type": "RUN", "args": ["true", "a;b"]}]}, "name of a user", 400),
        ({"steps": [{"type": "WORKDIR", "args": ["/a\nRUN x"]}]}, "several lines", 400),
        ({"steps": [{"type": "COPY", "args": ["a", "/b"]}]}, "filesHash", 400),
        ({"steps": [{"type": "COPY", "args": ["a", "/b"], "filesHash": "cd" * 32}]}, "were not uploaded", 400),
        ({"steps": [{"type": "COPY", "args": ["a", "/b"], "filesHash": "x"}]}, "hash", 400),
        ({"fromImage": "debian:12"}, "either", 400),
        ({"fromTemplate": "none-such"}, "none-such", 404),
        ({"fromTemplate": "team/name"}, "namespace", 404),
        ({"fromImageRegistry": {"type": "registry", "username": "u", "password": "p"}}, "container image", 400),
        ({"fromTemplate": None, "fromImage": "r.example/a", "fromImageRegistry": {"type": "registry", "username": "u"}}, "password", 400),
        ({"fromTemplate": None, "fromImage": "r.example/a", "fromImageRegistry": {"type": "registry", "username": "a:b", "password": "p"}}, "colon", 400),
        ({"fromTemplate": None, "fromImage": "r.example/a", "fromImageRegistry": {"type": "registry", "username": "u", "password": "p" * 9000}}, "password", 400),
        ({"fromTemplate": None, "fromImage": "r.example/a", "fromImageRegistry": {"type": "gcp"}}, "serviceAccountJson", 400),
        ({"fromTemplate": None, "fromImage": "r.example/a", "fromImageRegistry": {"type": "aws", "awsAccessKeyId": "k"}}, "aws", 501),
    ]  # fmt: skip


@pytest.mark.parametrize(("body", "text", "code"), _BAD_STEPS)
async def test_steps_that_cannot_be_are_refused_and_may_be_sent_again(
    platform_of_module: Platform, body: dict[str, Any], text: str, code: int
) -> None:
    api = platform_of_module.api
    build = await announced(api)
    answer = await start(api, build, **body)
    assert (answer.status_code, answer.json()["code"]) == (code, code), answer.text
    assert text in answer.json()["message"]
    assert (await status(api, build))["status"] == "waiting"
    assert (await start(api, build, steps=[{"type": "ENV", "args": ["A", "1"]}])).status_code == 202
    again = await start(api, build, steps=[])
    assert again.status_code == 409
    await ended(api, build)


async def test_templates_are_listed_and_stay_private(platform_of_module: Platform) -> None:
    api = platform_of_module.api
    builds: list[dict[str, Any]] = []
    for _ in range(2):
        build = await announced(api, name="listed")
        steps = [{"type": "RUN", "args": [f"echo {len(builds)}"]}]
        assert (await start(api, build, steps=steps)).status_code == 202
        assert (await ended(api, build))["status"] == "ready", await status(api, build)
        builds.append(build)
    (listed,) = [each for each in (await api.get("/e2b/templates")).json() if each["templateID"] == "listed"]
    assert (listed["buildID"], listed["public"], listed["names"]) == (builds[1]["buildID"], False, ["listed"])
    first = await api.get("/e2b/v2/templates", params={"limit": 1})
    names, token = [each["templateID"] for each in first.json()], first.headers.get("X-Next-Token")
    while token:
        page = await api.get("/e2b/v2/templates", params={"limit": 1, "nextToken": token})
        names += [each["templateID"] for each in page.json()]
        token = page.headers.get("X-Next-Token")
    assert names == sorted(set(names))
    assert "listed" in names
    one = (await api.get("/e2b/templates/listed")).json()
    assert one["builds"][0]["buildID"] == builds[1]["buildID"]
    assert one == {**listed, "builds": one["builds"]}
    for version in ("", "/v2"):
        path = f"/e2b{version}/templates/listed"
        assert (await api.patch(path, json={"public": False})).status_code == 200
        assert (await api.patch(path, json={"public": True})).status_code == 501
        assert (await api.patch(f"/e2b{version}/templates/unknown", json={})).status_code == 404
    assert (await api.patch("/e2b/v2/templates/listed", json={})).json() == {"names": ["listed"]}
    assert (await api.get("/e2b/templates/minimal")).status_code == 404


async def test_an_unknown_user_of_a_step_is_reported_as_e2b_does(platform_of_module: Platform) -> None:
    api = platform_of_module.api
    build = await announced(api)
    steps = [{"type": "ENV", "args": ["A", "1"]}, {"type": "RUN", "args": ["whoami", "root123"]}]
    assert (await start(api, build, steps=steps)).status_code == 202
    found = await ended(api, build)
    assert found["status"] == "error"
    assert found["reason"]["step"] == "2"
    assert found["reason"]["message"] == (
        "failed to run command 'whoami': command failed: unauthenticated: invalid username: 'root123'"
    )


async def test_files_are_of_a_team_and_a_link_is_for_one_hash(platform_of_module: Platform) -> None:
    api = platform_of_module.api
    async with httpx2.AsyncClient(trust_env=False) as anybody:
        path = f"/e2b/templates/any/files/{HASH}"
        answer = await api.get(path)
        assert (answer.status_code, answer.json()["present"]) == (201, False)
        url = answer.json()["url"]
        assert (await anybody.put(url, content=archive(a="one"))).status_code == 204
        assert (await api.get(path)).json()["present"]
        again = await anybody.put(url, content=archive(a="two"))
        assert (again.status_code, "not valid any more" in again.text) == (404, True), (
            "a link is for one upload"
        )
        url = (await api.get(path)).json()["url"]
        altered = [
            url.replace(HASH, "cd" * 32),
            url[:-1] + ("0" if url[-1] != "0" else "1"),
            url.rpartition("/")[0] + "/x",
            url.rpartition("/")[0] + "/a-b-c-d",
            url.rpartition("-")[0],
        ]
        for wrong in altered:
            refused = await anybody.put(wrong, content=b"x")
            assert (refused.status_code, refused.json()["code"]) == (404, 404), wrong
        assert (await api.get("/e2b/templates/any/files/xyz")).status_code == 400
        too_large = await anybody.put(url, content=bytes((100 << 20) + 1))
        assert too_large.status_code == 413


async def test_a_damaged_archive_fails_the_request_and_files_of_several_steps_do_not_mix(
    platform_of_module: Platform,
) -> None:
    api = platform_of_module.api
    hashes = {"ee" * 32: b"no archive", "e0" * 32: archive(f="first"), "e1" * 32: archive(f="second")}
    for files_hash, content in hashes.items():
        url = (await api.get(f"/e2b/templates/any/files/{files_hash}")).json()["url"]
        assert (await api.put(url, content=content)).status_code == 204
    bad, first, second = hashes
    build = await announced(api)
    refused = await start(api, build, steps=[{"type": "COPY", "args": ["f", "/x"], "filesHash": bad}])
    assert refused.status_code == 400, refused.text
    steps = [
        {"type": "COPY", "args": ["f", "/tmp/one"], "filesHash": first},
        {"type": "COPY", "args": ["f", "/tmp/two"], "filesHash": second},
        {"type": "RUN", "args": ["grep first /tmp/one && grep second /tmp/two"]},
    ]
    assert (await start(api, build, steps=steps)).status_code == 202
    assert (await ended(api, build))["status"] == "ready", await status(api, build)


async def test_a_login_to_a_registry_is_for_one_build_and_is_gone_when_it_has_ended(
    platform_of_module: Platform,
) -> None:
    api, control = platform_of_module.api, platform_of_module.control
    credentials, password = control.services.registry_credentials, "a secret of the registry"
    database = control.database
    await announced(api)
    newest = select(announced_builds.c.team_id).order_by(announced_builds.c.created_at.desc()).limit(1)
    team = TeamId((await database.execute(newest)).scalar_one())
    logins = (
        {"type": "registry", "username": "robot", "password": password},
        {"type": "gcp", "serviceAccountJson": password},
    )

    async def check(tx: Transaction) -> None:
        # Meanwhile no worker takes builds from the queue.
        await tx.execute(select(func.pg_advisory_xact_lock(QUEUE_LOCK)))
        for login, username in zip(logins, ("robot", "_json_key"), strict=True):
            build = await announced(api)
            image = {"fromImage": "r.example.com:5000/team/app:1", "fromTemplate": None}
            answer = await start(api, build, **image, fromImageRegistry=login)
            assert answer.status_code == 202, answer.text
            build_id = BuildId(uuid.UUID(build["buildID"]))
            sealed = await login_store.of_build(database, build_id)
            assert sealed is not None
            assert password.encode() not in sealed.sealed_password
            opened = partial(credentials.open_for_build, sealed)
            expected = ImageLogin(username, Secret(password))
            assert opened(team, build_id, "r.example.com:5000/team/other") == expected
            assert opened(team, build_id, "r.example.com/team/app:1") is None
            for foreign in ((team, BuildId.new()), (TeamId.new(), build_id)):
                with pytest.raises(InvalidState):
                    opened(*foreign, "r.example.com:5000/a")
            own = await api.get(f"/v1/builds/{build_id}")
            assert password not in f"{own.text} {await status(api, build)}"
            assert (await api.post(f"/v1/builds/{build_id}/cancel")).status_code == 204
            assert await login_store.of_build(database, build_id) is None

    await database.transaction(check)


async def test_the_login_of_a_build_that_fails_is_gone(platform_of_module: Platform) -> None:
    api, database = platform_of_module.api, platform_of_module.control.database
    build = await announced(api)
    login = {"type": "registry", "username": "robot", "password": "a secret"}
    answer = await start(
        api, build, fromImage="r.example.com/app", fromTemplate=None, fromImageRegistry=login
    )
    assert answer.status_code == 202, answer.text
    # Hosts of these tests pull no images.
    assert (await ended(api, build))["status"] == "error"
    assert await login_store.of_build(database, BuildId(uuid.UUID(build["buildID"]))) is None


async def test_a_link_expires(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    files = BuilderFiles(
        database=None,  # type: ignore[arg-type]
        objects=None,  # type: ignore[arg-type]
        scratch=ScratchSpace(tmp_path),
        secret=Secret("s" * 32),
    )
    team, holder = TeamId.new(), KeyId.new()
    text = files.links.make(team, HASH, holder)
    link = files.links.read(text)
    assert (link.team_id, link.files_hash, link.holder) == (team, HASH, holder)
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now + 3700)
    with pytest.raises(NotFound, match="expired"):
        files.links.read(text)


async def test_old_files_and_those_beyond_a_teams_limit_are_deleted(
    platform_of_module: Platform, monkeypatch: pytest.MonkeyPatch
) -> None:
    objects: ObjectStore = platform_of_module.control.objects
    database = Database(str(platform_of_module.settings.database_url))
    api = platform_of_module.api
    hashes = [f"{n}f" * 32 for n in range(3)]
    for files_hash in hashes:
        url = (await api.get(f"/e2b/templates/any/files/{files_hash}")).json()["url"]
        assert (await api.put(url, content=archive(a="one"))).status_code == 204
    team = (await rows(database, f"SELECT team_id FROM builder_files WHERE hash = '{hashes[0]}'"))[0]
    retention = BuilderRetention(database, objects)
    await retention.delete_old()
    assert len(await rows(database, "SELECT hash FROM builder_files WHERE hash LIKE '_f_f%'")) == 3
    await rows(
        database,
        f"UPDATE builder_files SET used_at = now() - interval '8 days' WHERE hash = '{hashes[0]}' RETURNING 1",
    )
    await rows(
        database,
        f"UPDATE builder_files SET used_at = now() - interval '2 hours' WHERE hash = '{hashes[1]}' RETURNING 1",
    )
    await retention.delete_old()
    assert await objects.size_of(key_of(TeamId(team), hashes[0])) is None
    assert await objects.size_of(key_of(TeamId(team), hashes[1])) is not None
    monkeypatch.setattr(BuilderRetention, "_BYTES_OF_TEAM", 1)
    await retention.delete_old()
    left = await rows(database, "SELECT hash FROM builder_files WHERE hash LIKE '_f_f%'")
    assert left == [hashes[2]], "one that was used just now stays"
    await database.close()


async def rows(database: Database, statement: str) -> list[Any]:
    from sqlalchemy import text

    return list((await database.execute(text(statement))).scalars())
