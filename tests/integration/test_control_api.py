"""Every endpoint does its work, for its own team only."""

from __future__ import annotations

import asyncio
import base64
import re

import httpx2
import pytest
import pytest_asyncio
from sqlalchemy import select, update

from wrenn.control.db import Database
from wrenn.control.identity import KeyFormat, team_api_keys
from wrenn.control.identity.bootstrap import bootstrap
from wrenn.control.identity.tables import teams

from .conftest import DEADLINE_S, Platform, client, refused

TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ")

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest.fixture
def platform(team_platform: Platform) -> Platform:
    """The module's, with a team of the test's own."""
    return team_platform


async def test_a_sandbox_runs_when_create_answers(platform: Platform):
    answer = await platform.api.post("/v1/sandboxes", json={"vcpus": 2, "memory_mb": 256, "timeout_sec": 60})
    assert answer.status_code == 201
    sandbox = answer.json()
    assert re.fullmatch(r"cl-[0-9a-z]{25}", sandbox["id"])
    fields = {k: sandbox[k] for k in ("status", "template", "vcpus", "memory_mb", "timeout_sec")}
    assert fields == {
        "status": "running", "template": "minimal", "vcpus": 2, "memory_mb": 256, "timeout_sec": 60,
    }  # fmt: skip
    for name in ("created_at", "started_at", "last_active_at", "last_updated"):
        assert TIME.fullmatch(sandbox[name])
    assert "guest_ip" not in sandbox
    assert None not in sandbox.values()
    assert (await platform.api.get(f"/v1/sandboxes/{sandbox['id']}")).json() == sandbox


async def test_both_prefixes_have_the_same_endpoints(platform: Platform):
    path = await platform.create()
    by_capsules = await platform.api.get(path.replace("sandboxes", "capsules"))
    assert by_capsules.json() == (await platform.api.get(path)).json()
    assert (await platform.api.post("/v1/capsules", json={})).status_code == 201


async def test_the_list_is_newest_first_without_ended_ones(platform: Platform):
    paths = [await platform.create() for _ in range(3)]
    await platform.api.delete(paths[1])
    listed = (await platform.api.get("/v1/sandboxes")).json()
    assert [f"/v1/sandboxes/{s['id']}" for s in listed] == [paths[2], paths[0]]


async def test_deleting_twice_is_the_same_as_deleting_once(platform: Platform):
    path = await platform.create()
    for _ in range(2):
        answer = await platform.api.delete(path)
        assert (answer.status_code, answer.content) == (204, b"")
    assert (await platform.api.get(path)).json()["status"] == "stopped"
    assert path.rpartition("/")[2] not in platform.host.sandbox_ids
    refused(await platform.api.post(f"{path}/ping"), 409, "invalid_state")


async def test_ping_counts_as_activity(platform: Platform):
    path = await platform.create()
    assert (await platform.api.post(f"{path}/ping")).status_code == 204
    assert platform.host.calls["ping_sandbox"] == 1


async def test_exec_returns_output_and_exit_code(platform: Platform):
    path = await platform.create(envs={"GREETING": "hello"})
    body = {"cmd": "sh", "args": ["-c", 'echo "$GREETING $NAME $USER"; pwd >&2; exit 3'], "cwd": "/root"}
    answer = await platform.api.post(f"{path}/exec", json={**body, "envs": {"NAME": "ada"}, "user": "user"})
    assert answer.status_code == 200
    result = answer.json()
    assert result["stdout"] == "hello ada user\n"
    assert result["stderr"].endswith("/root\n")
    assert (result["exit_code"], result["encoding"], result["cmd"]) == (3, "utf-8", "sh")
    assert result["duration_ms"] >= 0


async def test_output_that_is_not_utf8_comes_as_base64_on_both_streams(platform: Platform):
    path = await platform.create()
    body = {"cmd": "sh", "args": ["-c", r"printf '\377'; printf text >&2"]}
    result = (await platform.api.post(f"{path}/exec", json=body)).json()
    assert result["encoding"] == "base64"
    assert base64.b64decode(result["stdout"]) == b"\xff"
    assert base64.b64decode(result["stderr"]) == b"text"


async def test_a_command_that_does_not_exist_is_an_exit_code(platform: Platform):
    path = await platform.create()
    result = await platform.api.post(f"{path}/exec", json={"cmd": "no-such-command"})
    assert result.status_code == 200
    assert result.json()["exit_code"] == 127
    assert "not found" in result.json()["stderr"]


async def test_a_command_beyond_its_time_limit_is_killed(platform: Platform):
    path = await platform.create()
    answer = await platform.api.post(f"{path}/exec", json={"cmd": "sleep", "args": ["60"], "timeout_sec": 1})
    refused(answer, 504, "deadline_exceeded")


async def test_a_time_limit_keeps_what_was_written(platform: Platform):
    path = await platform.create()
    body = {"cmd": "sh", "args": ["-c", "echo so far; echo oh >&2; sleep 60"], "timeout_sec": 1}
    error = (await platform.api.post(f"{path}/exec", json=body)).json()["error"]
    assert (error["timed_out"], error["stdout"], error["stderr"]) == (True, "so far\n", "oh\n")
    assert (error["encoding"], error["exit_code"]) == ("utf-8", 137)


async def test_a_signal_that_ended_a_command_has_number_and_name(platform: Platform):
    path = await platform.create()
    body = {"cmd": "sh", "args": ["-c", "echo x; kill -TERM $$"]}
    result = (await platform.api.post(f"{path}/exec", json=body)).json()
    assert (result["exit_code"], result["signal"], result["signal_name"]) == (143, 15, "SIGTERM")
    assert (result["out_of_memory"], result["stdout"]) == (False, "x\n")
    result = (await platform.api.post(f"{path}/exec", json={"cmd": "true"})).json()
    assert (result["exit_code"], result["signal"], result["signal_name"]) == (0, None, None)


async def test_output_that_would_grow_as_text_comes_as_base64(platform: Platform):
    path = await platform.create()
    body = {"cmd": "sh", "args": ["-c", "head -c 8000000 /dev/zero; head -c 4000000 /dev/zero >&2"]}
    answer = await platform.api.post(f"{path}/exec", json=body)
    assert answer.json()["encoding"] == "base64"
    assert base64.b64decode(answer.json()["stdout"]) == bytes(8_000_000)
    assert base64.b64decode(answer.json()["stderr"]) == bytes(4_000_000)
    body = {"cmd": "python3", "args": ["-c", "import sys; sys.stdout.write('é\\n' * 1_000_000)"]}
    result = (await platform.api.post(f"{path}/exec", json=body)).json()
    assert (result["encoding"], len(result["stdout"])) == ("utf-8", 2_000_000)


async def test_a_command_past_its_share_is_killed(platform: Platform):
    path = await platform.create()
    body = {"cmd": "sh", "args": ["-c", "echo $$ > pid; exec cat /dev/zero"]}
    refused(await platform.api.post(f"{path}/exec", json=body), 413, "too_large")
    body = {"cmd": "sh", "args": ["-c", "while kill -0 $(cat pid) 2>/dev/null; do sleep 0.02; done"]}
    assert (await platform.api.post(f"{path}/exec", json=body)).json()["exit_code"] == 0


async def test_a_host_of_before_runs_commands_all_the_same(platform: Platform):
    path = await platform.create()
    platform.host.switches.lacks_streamed_exec = True
    result = (await platform.api.post(f"{path}/exec", json={"cmd": "echo", "args": ["x"]})).json()
    assert (result["stdout"], result["exit_code"]) == ("x\n", 0)


async def test_background_processes_are_listed_and_killed(platform: Platform):
    path = await platform.create()
    body = {"cmd": "sleep", "args": ["60"], "background": True}
    tagged = await platform.api.post(f"{path}/exec", json={**body, "tag": "nap"})
    untagged = await platform.api.post(f"{path}/exec", json=body)
    assert tagged.status_code == untagged.status_code == 202
    assert tagged.json().keys() == {"sandbox_id", "cmd", "pid", "tag"}
    assert re.fullmatch(r"proc-[0-9a-f]{8}", untagged.json()["tag"])
    listed = (await platform.api.get(f"{path}/processes")).json()["processes"]
    assert {p["tag"] for p in listed} == {"nap", untagged.json()["tag"]}
    killed = await platform.api.delete(f"{path}/processes/nap", params={"signal": "SIGTERM"})
    assert killed.status_code == 204
    assert (await platform.api.delete(f"{path}/processes/{untagged.json()['pid']}")).status_code == 204
    assert (await platform.api.get(f"{path}/processes")).json() == {"processes": []}
    refused(await platform.api.delete(f"{path}/processes/nap"), 404, "not_found")


@pytest_asyncio.fixture(loop_scope="module")
async def stranger(platform: Platform):
    async with client(platform.url, await platform.other_team()) as api:
        yield api


async def test_another_teams_sandbox_is_not_there(platform: Platform, stranger: httpx2.AsyncClient):
    path = await platform.create()
    calls = [
        ("GET", "", None), ("DELETE", "", None), ("POST", "/ping", None), ("POST", "/exec", {"cmd": "true"}),
        ("GET", "/processes", None), ("DELETE", "/processes/1", None), ("POST", "/files/list", {"path": "/"}),
        ("POST", "/files/read", {"path": "/a"}), ("POST", "/files/remove", {"path": "/root"}),
        ("POST", "/ports/80/link", {"expires_in_sec": 60}),
    ]  # fmt: skip
    for method, rest, body in calls:
        refused(await stranger.request(method, path + rest, json=body), 404, "not_found")
    upload = await stranger.post(f"{path}/files/write", data={"path": "/a"}, files={"file": b"x"})
    refused(upload, 404, "not_found")
    assert (await stranger.get("/v1/sandboxes")).json() == []
    assert (await platform.api.get(path)).json()["status"] == "running"


@pytest.mark.asyncio(loop_scope="function")
async def test_a_key_works_until_it_is_replaced(own_platform: Platform, database_url: str):
    platform = own_platform
    first = await bootstrap(database_url)
    async with client(platform.url, first) as api:
        path = f"/v1/sandboxes/{(await api.post('/v1/sandboxes', json={})).json()['id']}"
        second = await bootstrap(database_url)
        refused(await api.get(path), 401, "unauthorized")
    # One of the other form is another key, of the same team.
    for_e2b = await bootstrap(database_url, KeyFormat.E2B)
    assert for_e2b.reveal().startswith("e2b_")
    for key in (second, for_e2b):
        async with client(platform.url, key) as api:
            assert (await api.get(path)).status_code == 200


@pytest.mark.asyncio(loop_scope="function")
async def test_the_key_of_a_deleted_team_stops_working(own_platform: Platform, database: Database):
    platform = own_platform
    path = await platform.create()
    await database.execute(update(teams).values(deleted_at=teams.c.created_at))
    refused(await platform.api.get(path), 401, "unauthorized")
    refused(await platform.api.get("/v1/sandboxes"), 401, "unauthorized")


@pytest.mark.asyncio(loop_scope="function")
async def test_only_the_hash_of_a_key_is_stored_and_its_use_is_noted(
    own_platform: Platform, database: Database
):
    platform = own_platform
    await platform.create()
    async with asyncio.timeout(DEADLINE_S):
        while (row := (await database.execute(select(team_api_keys))).one()).last_used is None:
            await asyncio.sleep(0.05)
    assert row.key_hash == platform.key.sha256_hex()
    assert row.key_prefix == platform.key.reveal()[:10]
    assert platform.key.reveal() not in map(str, row)


async def test_health_needs_no_key(platform: Platform):
    async with client(platform.url, None) as api:
        answer = await api.get("/health")
        assert answer.json()["status"] == "ok"
        assert (await api.get("/openapi.json")).json()["openapi"].startswith("3.1")
        assert (await api.get("/docs")).status_code == 200
