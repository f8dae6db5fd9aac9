"""The edge of the e2b API: its addresses, the shape of its errors, its keys, and what it refuses."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx2
import pytest

from wrenn.base.secrets import Secret
from wrenn.control.http.buckets import Rate
from wrenn.control.http.rate_limits import RateSettings

from .conftest import Platform, client, running_control_plane
from .people import People

pytestmark = pytest.mark.asyncio(loop_scope="module")

NEW = {"templateID": "minimal", "timeout": 60}
UNKNOWN = "0" * 25


@pytest.fixture
def platform(team_platform: Platform) -> Platform:
    return team_platform


def assert_error(answer: httpx2.Response, status: int, error_code: str = "") -> None:
    """An error in e2b's shape."""
    assert answer.status_code == status, answer.text
    body = answer.json()
    assert body["code"] == status
    assert isinstance(body["message"], str)
    assert body["message"]
    if error_code:
        assert body["error_code"] == error_code


ERRORS = [
    ("GET", "/e2b", 404),
    ("GET", "/e2b/", 404),
    ("GET", "/e2b/nothing", 404),
    ("GET", "/e2b/index.html", 404),
    ("GET", "/e2b/sandboxes/", 404),
    ("PUT", "/e2b/sandboxes", 405),
    ("GET", f"/e2b/sandboxes/{UNKNOWN}", 404),
    ("GET", f"/e2b/sandboxes/cl-{UNKNOWN}", 404),
    ("GET", "/e2b/sandboxes/no-such-id", 404),
    ("DELETE", "/e2b/sandboxes/no.such%20id", 404),
    ("GET", "/e2b/v2/sandboxes?limit=0", 400),
    ("GET", "/e2b/v2/sandboxes?limit=101", 400),
    ("GET", "/e2b/v2/sandboxes?order=up", 400),
    ("GET", "/e2b/v2/sandboxes?state=gone", 400),
    ("GET", "/e2b/v2/sandboxes?nextToken=x", 400),
    ("GET", "/e2b/v2/sandboxes?template=a:b", 400),
    ("GET", "/e2b/v2/sandboxes?startedAfter=2020-01-01T00:00:00", 400),
    ("GET", "/e2b/v2/sandboxes?metadata=no-pair", 400),
    ("GET", "/e2b/v2/sandboxes?metadata=%00=%00", 400),
    ("GET", "/e2b/v2/sandboxes?metadata=a=%2525ff", 400),
]


async def test_every_error_has_the_shape_of_e2b(platform: Platform, subtests: pytest.Subtests):
    for method, path, status in ERRORS:
        with subtests.test(method=method, path=path):
            assert_error(await platform.api.request(method, path), status)


async def test_a_request_without_a_valid_key_is_refused_in_the_shape_of_e2b(platform: Platform):
    async with client(platform.url, None) as stranger:
        assert_error(await stranger.get("/e2b/v2/sandboxes"), 401, "unauthorized")
        wrong = await stranger.get("/e2b/v2/sandboxes", headers={"X-API-Key": "e2b_" + "0" * 40})
        assert_error(wrong, 401, "unauthorized")
        assert (await stranger.get("/e2b/health")).status_code == 200


BAD_CREATES = [
    (b"{", 400),
    (b"[]", 400),
    (b"\xff", 400),
    (b"{}", 400),
    (b'{"templateID": 1}', 400),
    (b'{"templateID": "minimal", "timeout": 0}', 400),
    (b'{"templateID": "minimal", "timeout": -5}', 400),
    (b'{"templateID": "minimal", "timeout": "5"}', 400),
    (b'{"templateID": "minimal", "timeout": 99999999999999999999}', 400),
    (b'{"templateID": "minimal", "metadata": {"a": 1}}', 400),
    (b'{"templateID": "minimal", "metadata": {"": "x"}}', 400),
    (b'{"templateID": "minimal", "envVars": {"A=B": "x"}}', 400),
    (b'{"templateID": "minimal", "envVars": {"A": "\\u0000"}}', 400),
    (b'{"templateID": "minimal", "autoPauseMemory": false}', 400),
    (b'{"templateID": "minimal", "network": {"denyOut": ["example.com"]}}', 400),
    (b'{"templateID": "minimal", "network": {"allowOut": ["10.0.0.0/8"]}}', 400),
    (b'{"templateID": "minimal", "network": {"allowOut": ["2001:db8::/32"]}}', 400),
    (b'{"templateID": "minimal", "network": {"allowOut": ["example.com"]}}', 400),
    (b'{"templateID": "minimal", "network": {"allowOut": ["*"], "denyOut": ["0.0.0.0/0"]}}', 400),
    (b'{"templateID": "minimal", "network": {"rules": {"example.com": []}}}', 501),
    (b'{"templateID": "minimal", "network": {"egressProxy": {"address": "x"}}}', 501),
    (b'{"templateID": "minimal", "network": {"httpsPorts": [443]}}', 501),
    (b'{"templateID": "minimal", "mcp": {"server": {}}}', 501),
    (b'{"templateID": "minimal", "iam": {"tokens": {"a": {}}}}', 501),
    (b'{"templateID": "minimal", "volumeMounts": [{"name": "a", "path": "/a"}]}', 501),
    (b'{"templateID": "no-such-template"}', 404),
    (b'{"templateID": "somebody/minimal"}', 404),
    (b'{"templateID": "no template"}', 400),
    (b'{"templateID": "minimal", "padding": "' + b"x" * (1 << 20) + b'"}', 413),
]


@pytest.mark.parametrize("path", ["/e2b/sandboxes", "/e2b/v2/sandboxes"])
async def test_a_create_that_cannot_be_done_changes_nothing(
    platform: Platform, path: str, subtests: pytest.Subtests
):
    headers = {"Content-Type": "application/json"}
    for body, status in BAD_CREATES:
        with subtests.test(body=body[:100]):
            assert_error(await platform.api.post(path, content=body, headers=headers), status)
    assert (await platform.api.get("/v1/sandboxes")).json() == []


async def test_unknown_fields_are_ignored_and_logged_once(
    platform: Platform, caplog: pytest.LogCaptureFixture
):
    caplog.set_level("INFO", "wrenn.control.e2b")
    for _ in range(2):
        body = {"templateID": "minimal", "timeout": 0, "fieldOfTomorrow": {"a": [1]}, "mcp": None}
        assert_error(await platform.api.post("/e2b/v2/sandboxes", json=body), 400)
    logged = [vars(record)["field"] for record in caplog.records if record.message == "unknown field ignored"]
    assert logged == ["NewSandboxV2.fieldOfTomorrow"]


async def test_a_sandbox_has_one_id_in_two_forms(platform: Platform):
    made = (await platform.api.post("/e2b/v2/sandboxes", json=NEW)).json()
    own = f"cl-{made['sandboxID']}"
    assert (await platform.api.get(f"/v1/sandboxes/{own}")).json()["id"] == own
    assert (await platform.api.get(f"/v1/sandboxes/{made['sandboxID']}")).json()["id"] == own
    for form in (own, made["sandboxID"], f"{made['sandboxID']}-{made['clientID']}"):
        assert (await platform.api.get(f"/e2b/sandboxes/{form}")).json()["sandboxID"] == made["sandboxID"]


async def test_a_sandbox_of_the_own_api_is_one_of_e2b_too(platform: Platform):
    path = await platform.create(metadata={"a": "b"})
    (listed,) = (await platform.api.get("/e2b/v2/sandboxes")).json()
    assert listed["metadata"] == {"a": "b"}
    assert listed["state"] == "running"
    # It has no end, and the field is required.
    assert listed["endAt"] > listed["startedAt"][:3] + "9"
    assert (await platform.api.delete(f"/e2b/sandboxes/{listed['sandboxID']}")).status_code == 204
    assert (await platform.api.get(path)).json()["status"] == "stopped"
    assert_error(await platform.api.delete(f"/e2b/sandboxes/{listed['sandboxID']}"), 404)


async def test_things_of_another_team_are_not_found(platform: Platform):
    made = (await platform.api.post("/e2b/v2/sandboxes", json=NEW)).json()
    path = f"/e2b/sandboxes/{made['sandboxID']}"
    async with client(platform.url, await platform.other_team("mallory")) as other:
        assert (await other.get("/e2b/v2/sandboxes")).json() == []
        assert_error(await other.get(path), 404)
        assert_error(await other.delete(path), 404)
        assert_error(await other.post(f"{path}/timeout", json={"timeout": 1}), 404)
    assert (await platform.api.get(path)).json()["state"] == "running"


async def test_the_token_of_a_sandbox_is_its_own(platform: Platform):
    first = (await platform.api.post("/e2b/v2/sandboxes", json=NEW)).json()
    second = (await platform.api.post("/e2b/sandboxes", json=NEW)).json()
    assert first["envdAccessToken"] != second["envdAccessToken"]
    detail = (await platform.api.get(f"/e2b/sandboxes/{first['sandboxID']}")).json()
    assert detail["envdAccessToken"] == first["envdAccessToken"]
    listed = (await platform.api.get("/e2b/v2/sandboxes")).text
    assert first["envdAccessToken"] not in listed


@pytest.mark.parametrize("auto_pause", [False, True])
async def test_a_timeout_of_zero_ends_it_now(platform: Platform, auto_pause: bool):
    body = {**NEW, "autoPause": auto_pause}
    made = (await platform.api.post("/e2b/v2/sandboxes", json=body)).json()
    path = f"/e2b/sandboxes/{made['sandboxID']}"
    detail = (await platform.api.get(path)).json()
    assert detail["lifecycle"] == {"autoResume": False, "onTimeout": "pause" if auto_pause else "kill"}
    assert (await platform.api.post(f"{path}/timeout", json={"timeout": 0})).status_code == 204
    if auto_pause:
        assert (await platform.api.get(path)).json()["state"] == "paused"
        assert_error(await platform.api.post(f"{path}/timeout", json={"timeout": 60}), 404)
    else:
        assert_error(await platform.api.get(path), 404)


async def test_a_sandbox_ends_at_its_timeout(platform: Platform):
    killed = (await platform.api.post("/e2b/v2/sandboxes", json={**NEW, "timeout": 1})).json()
    paused = (
        await platform.api.post("/e2b/v2/sandboxes", json={**NEW, "timeout": 1, "autoPause": True})
    ).json()
    await platform.wait_status(f"/v1/sandboxes/{paused['sandboxID']}", "paused")
    await platform.wait_status(f"/v1/sandboxes/{killed['sandboxID']}", "stopped")
    assert_error(await platform.api.get(f"/e2b/sandboxes/{killed['sandboxID']}"), 404)
    assert (await platform.api.get(f"/e2b/sandboxes/{paused['sandboxID']}")).json()["state"] == "paused"


async def test_a_repeated_create_with_its_key_returns_the_same_sandbox(platform: Platform):
    headers = {"Idempotency-Key": "job-1"}
    answers = await asyncio.gather(
        *(platform.api.post("/e2b/v2/sandboxes", json=NEW, headers=headers) for _ in range(3))
    )
    assert [answer.status_code for answer in answers] == [201] * 3
    assert len({answer.json()["sandboxID"] for answer in answers}) == 1
    other = await platform.api.post("/e2b/v2/sandboxes", json={**NEW, "timeout": 61}, headers=headers)
    assert_error(other, 409, "conflict")


async def test_network_options_are_those_of_the_sandbox(platform: Platform):
    network = {"allowOut": ["*.example.com", "9.9.9.9"], "denyOut": ["0.0.0.0/0"]}
    made = (await platform.api.post("/e2b/v2/sandboxes", json={**NEW, "network": network})).json()
    own = (await platform.api.get(f"/v1/sandboxes/{made['sandboxID']}")).json()["network"]
    assert own == {"allow_internet": True, "allow": ["*.example.com", "9.9.9.9"], "deny": ["0.0.0.0/0"]}
    body = {**NEW, "allow_internet_access": False}
    made = (await platform.api.post("/e2b/v2/sandboxes", json=body)).json()
    assert not (await platform.api.get(f"/e2b/sandboxes/{made['sandboxID']}")).json()["allowInternetAccess"]


async def test_times_and_order_of_a_list(platform: Platform):
    first, second = [(await platform.api.post("/e2b/v2/sandboxes", json=NEW)).json() for _ in range(2)]
    listed = (await platform.api.get("/e2b/v2/sandboxes?order=asc")).json()
    assert [each["sandboxID"] for each in listed] == [first["sandboxID"], second["sandboxID"]]
    later = listed[1]["startedAt"].replace("+", "%2B")
    found = (await platform.api.get(f"/e2b/v2/sandboxes?startedAfter={later}")).json()
    assert [each["sandboxID"] for each in found] == [second["sandboxID"]]
    page = await platform.api.get("/e2b/v2/sandboxes?limit=1")
    cursor = page.headers["X-Next-Token"]
    rest = await platform.api.get(f"/e2b/v2/sandboxes?limit=1&nextToken={cursor}")
    assert [each["sandboxID"] for each in page.json() + rest.json()] == [
        second["sandboxID"],
        first["sandboxID"],
    ]
    assert "X-Next-Token" not in rest.headers


async def test_the_api_is_at_the_root_of_its_own_host_name(platform: Platform):
    headers = {"Host": "api.localhost:1234"}
    made = await platform.api.post("/v2/sandboxes", json=NEW, headers=headers)
    assert made.status_code == 201, made.text
    # The names of ports are beside it, not below it.
    assert made.json()["domain"] == "localhost:1234"
    assert (await platform.api.get("/sandboxes", headers=headers)).json()
    assert_error(await platform.api.get("/", headers=headers), 404)
    assert_error(await platform.api.get("/index.html", headers=headers), 404)
    # The platform's own API stays reachable there.
    assert (await platform.api.get("/v1/sandboxes", headers=headers)).status_code == 200
    # Under another name these are no paths of the API.
    assert "sandboxID" not in (await platform.api.get("/sandboxes")).text


async def test_a_set_domain_has_its_own_api_host(platform: Platform):
    settings = replace(platform.settings, domain="boxes.example.com")
    async with running_control_plane(settings, platform.key) as second:
        listed = await second.api.get("/v2/sandboxes", headers={"Host": "API.boxes.example.com."})
        assert listed.status_code == 200
        page = await second.api.get("/v2/sandboxes", headers={"Host": "api.localhost"})
        assert page.text != listed.text


async def test_too_many_requests_are_refused_in_the_shape_of_e2b(platform: Platform):
    settings = replace(platform.settings, rates=RateSettings(Rate(0.01, 1), Rate(0.01, 1)))
    async with running_control_plane(settings, platform.key) as second:
        for _ in range(2):
            await second.api.get("/e2b/v2/sandboxes")
        refused = await second.api.get("/e2b/v2/sandboxes")
        assert_error(refused, 429, "rate_limited")
        assert int(refused.headers["Retry-After"]) >= 1
        assert refused.headers["Should-Retry"] == "true"


async def test_a_key_of_e2bs_form_is_a_key_like_any_other(people: People):
    ada = await people.sign_up()
    made: dict[str, Any] = (await ada.post("/v1/api-keys", {"name": "e2b", "format": "e2b"})).json()
    assert made["key"].startswith("e2b_")
    assert len(bytes.fromhex(made["key"].removeprefix("e2b_"))) == 20
    assert made["key_prefix"] == made["key"][:10]
    async with client(people.url, Secret(made["key"])) as api:
        assert (await api.get("/v1/sandboxes")).status_code == 200
        assert (await api.get("/e2b/v2/sandboxes")).status_code == 200
        assert (await ada.delete(f"/v1/api-keys/{made['id']}")).status_code == 204
        assert_error(await api.get("/e2b/v2/sandboxes"), 401)
    assert (await ada.post("/v1/api-keys", {"name": "x", "format": "other"})).status_code == 400


async def test_a_key_that_may_only_read_gets_no_token(people: People):
    ada = await people.sign_up()
    made = (await ada.post("/e2b/v2/sandboxes", NEW)).json()
    key = await ada.make_key(scope="read")
    async with client(people.url, Secret(key["key"])) as api:
        detail = (await api.get(f"/e2b/sandboxes/{made['sandboxID']}")).json()
        assert detail["sandboxID"] == made["sandboxID"]
        assert "envdAccessToken" not in detail
        assert_error(await api.post("/e2b/v2/sandboxes", json=NEW), 403, "forbidden")


BAD_CHANGES: list[tuple[str, str, dict[str, object] | None, int]] = [
    ("POST", "timeout", {}, 400),
    ("POST", "timeout", {"timeout": "1"}, 400),
    ("POST", "refreshes", {"duration": 1.5}, 400),
    ("POST", "connect", {}, 400),
    ("POST", "connect", {"timeout": 0}, 400),
    ("POST", "connect", {"timeout": -1}, 400),
    ("POST", "resume", {}, 409),
    ("POST", "pause", {"memory": "no"}, 400),
    ("POST", "fork", {"count": 0}, 400),
    ("POST", "fork", {"count": 33}, 400),
    ("POST", "fork", {"timeout": 0}, 400),
    ("POST", "snapshots", {"memory": "no"}, 400),
    ("POST", "snapshots", {"name": "a:b"}, 501),
    ("POST", "snapshots", {"name": "a b"}, 400),
    ("POST", "snapshots", {"name": "team/a"}, 404),
    ("PUT", "network", {"denyOut": ["example.com"]}, 400),
    ("PUT", "network", {"allowOut": ["*.example.com"]}, 400),
    ("PUT", "network", {"allowOut": ["*.example.com"], "denyOut": ["10.0.0.0/8"]}, 400),
    ("PUT", "network", {"allowOut": "9.9.9.9"}, 400),
    ("PUT", "network", {"rules": {"example.com": []}}, 501),
    ("GET", "metrics?start=-1", None, 400),
    ("GET", "metrics?start=20&end=10", None, 400),
    ("GET", "logs?start=x", None, 400),
    ("GET", "logs?limit=1001", None, 400),
]


async def test_the_log_of_a_sandbox_is_the_end_of_its_console(platform: Platform):
    made = (await platform.api.post("/e2b/v2/sandboxes", json=NEW)).json()
    own_id = f"cl-{made['sandboxID']}"
    # The simulated console is what the guest agent writes: to a log beside the sandbox's files.
    log = platform.host.agent.layout.sandboxes / own_id / "vmm.log"
    with log.open("a") as console:
        console.write("first line\r\n\nsecond \x1b[1mline\n")
    path, path_v2 = (f"/e2b{version}/sandboxes/{made['sandboxID']}/logs" for version in ("", "/v2"))
    found = (await platform.api.get(path)).json()
    lines = [line["line"] for line in found["logs"]]
    assert lines[-2:] == ["first line", "second \x1b[1mline"]
    assert [entry["message"] for entry in found["logEntries"]] == lines
    assert len((await platform.api.get(path, params={"limit": 1})).json()["logs"]) == 1
    assert (await platform.api.get(path, params={"start": 2**45})).json() == {"logs": [], "logEntries": []}
    newest = (await platform.api.get(path_v2, params={"direction": "backward", "limit": 1})).json()["logs"]
    assert [entry["message"] for entry in newest] == ["second \x1b[1mline"]
    searched = (await platform.api.get(path_v2, params={"search": "first"})).json()["logs"]
    assert [(entry["message"], entry["level"], entry["fields"]) for entry in searched] == [
        ("first line", "info", {})
    ]
    assert (await platform.api.get(path_v2, params={"level": "warn"})).json() == {"logs": []}
    assert (await platform.api.post(f"/e2b/sandboxes/{made['sandboxID']}/pause")).status_code == 204
    assert (await platform.api.get(path)).json() == {"logs": [], "logEntries": []}, "nor is it resumed"
    assert (await platform.api.get(f"/e2b/sandboxes/{made['sandboxID']}")).json()["state"] == "paused"


async def test_what_cannot_be_done_with_a_sandbox_changes_nothing(
    platform: Platform, subtests: pytest.Subtests
):
    made = (await platform.api.post("/e2b/v2/sandboxes", json=NEW)).json()
    sandbox = f"/e2b/sandboxes/{made['sandboxID']}"
    before = (await platform.api.get(sandbox)).json()
    for method, path, body, status in BAD_CHANGES:
        with subtests.test(path=path, body=body):
            assert_error(await platform.api.request(method, f"{sandbox}/{path}", json=body), status)
            assert (await platform.api.get(sandbox)).json() == before
            # Of a sandbox that there is not, nothing else is said, unless the request is wrong in itself.
            other = await platform.api.request(method, f"/e2b/sandboxes/{UNKNOWN}/{path}", json=body)
            assert_error(other, status if status == other.status_code == 400 else 404)
    assert len((await platform.api.get("/e2b/sandboxes")).json()) == 1
    assert (await platform.api.get("/e2b/snapshots")).json() == []


async def test_connect_says_whether_it_resumed(platform: Platform):
    made = (await platform.api.post("/e2b/sandboxes", json=NEW)).json()
    sandbox = f"sandboxes/{made['sandboxID']}"
    for path in (f"/e2b/{sandbox}/connect", f"/e2b/v2/{sandbox}/connect"):
        running = await platform.api.post(path, json={"timeout": 10})
        assert (running.status_code, running.json()) == (200, made)
        assert (await platform.api.post(f"/e2b/{sandbox}/pause")).status_code == 204
        assert_error(await platform.api.post(f"/e2b/{sandbox}/pause", json={}), 409, "invalid_state")
        resumed = await platform.api.post(path, json={"timeout": 10})
        assert (resumed.status_code, resumed.json()) == (201, made)
    assert (await platform.api.post(f"/e2b/{sandbox}/pause", json={})).status_code == 204
    answers = await asyncio.gather(
        *(platform.api.post(f"/e2b/v2/{sandbox}/connect", json={}) for _ in range(4))
    )
    assert {answer.status_code for answer in answers} == {200, 201} or [
        answer.status_code for answer in answers
    ] == [201] * 4
    assert all(answer.json() == made for answer in answers)


async def test_resume_of_old_clients(platform: Platform):
    made = (await platform.api.post("/e2b/sandboxes", json=NEW)).json()
    sandbox = f"/e2b/sandboxes/{made['sandboxID']}"
    assert (await platform.api.post(f"{sandbox}/pause")).status_code == 204
    assert_error(await platform.api.post(f"{sandbox}/refreshes", json={"duration": 5}), 404)
    resumed = await platform.api.post(f"{sandbox}/resume", json={"timeout": 100, "autoPause": True})
    assert (resumed.status_code, resumed.json()) == (201, made)
    detail = (await platform.api.get(sandbox)).json()
    assert detail["lifecycle"]["onTimeout"] == "pause"
    assert (await platform.api.post(f"{sandbox}/refreshes", json={"duration": 1})).status_code == 204
    assert (await platform.api.get(sandbox)).json()["endAt"] == detail["endAt"]
    assert (await platform.api.post(f"{sandbox}/refreshes", json={"duration": 900})).status_code == 204
    assert (await platform.api.get(sandbox)).json()["endAt"] > detail["endAt"]


async def test_a_resume_that_asks_for_a_kill_at_the_end_does_not_end_a_sandbox_whose_time_was_over(
    platform: Platform,
):
    made = (
        await platform.api.post("/e2b/v2/sandboxes", json={**NEW, "timeout": 1, "autoPause": True})
    ).json()
    sandbox = f"/e2b/sandboxes/{made['sandboxID']}"
    await platform.wait_status(f"/v1/sandboxes/cl-{made['sandboxID']}", "paused")
    resumed = await platform.api.post(f"{sandbox}/resume", json={"timeout": 100, "autoPause": False})
    assert (resumed.status_code, resumed.json()) == (201, made)
    detail = (await platform.api.get(sandbox)).json()
    assert (detail["state"], detail["lifecycle"]["onTimeout"]) == ("running", "kill")


async def test_a_sandbox_without_an_end_gets_none_by_connect(platform: Platform):
    path = await platform.create()
    sandbox_id = path.rpartition("cl-")[2]
    for call in ("connect", "refreshes"):
        body = {"timeout": 10, "duration": 10}
        answer = await platform.api.post(f"/e2b/sandboxes/{sandbox_id}/{call}", json=body)
        assert answer.status_code in (200, 204)
        assert "expires_at" not in (await platform.api.get(path)).json()


async def test_auto_resume_begins_the_lifetime_of_the_create_anew(platform: Platform):
    body = {**NEW, "timeout": 100, "autoPause": True, "autoResume": {"enabled": True}}
    made = (await platform.api.post("/e2b/v2/sandboxes", json=body)).json()
    own = f"/v1/sandboxes/{made['sandboxID']}"
    assert (await platform.api.post(f"{own}/pause")).status_code == 200
    assert "expires_at" not in (await platform.api.get(own)).json()
    # A use through the own API wakes it as any other does.
    assert (await platform.api.post(f"{own}/exec", json={"cmd": "true"})).status_code == 200
    detail = (await platform.api.get(f"/e2b/sandboxes/{made['sandboxID']}")).json()
    assert detail["lifecycle"] == {"autoResume": True, "onTimeout": "pause"}
    left = datetime.fromisoformat(detail["endAt"]) - datetime.now(UTC)
    assert timedelta(seconds=60) < left <= timedelta(seconds=100)


async def test_a_lifetime_that_begins_with_each_resume_is_of_the_own_api_too(platform: Platform):
    path = await platform.create(lifetime_sec=1, resume_lifetime_sec=100)
    assert (await platform.wait_status(path, "paused"))["resume_lifetime_sec"] == 100
    assert (await platform.api.post(f"{path}/resume")).status_code == 200
    expires_at = (await platform.api.get(path)).json()["expires_at"]
    left = datetime.fromisoformat(expires_at) - datetime.now(UTC)
    assert timedelta(seconds=60) < left <= timedelta(seconds=100)


async def test_metrics_of_many_sandboxes(platform: Platform):
    first, second = [(await platform.api.post("/e2b/v2/sandboxes", json=NEW)).json() for _ in range(2)]
    ids = f"{first['sandboxID']},{second['sandboxID']},{UNKNOWN}"
    async with asyncio.timeout(20):
        while True:
            answer = await platform.api.get(f"/e2b/sandboxes/metrics?sandbox_ids={ids}")
            found = answer.json()["sandboxes"]
            if len(found) == 2:
                break
            await asyncio.sleep(0.2)
    assert set(found) == {first["sandboxID"], second["sandboxID"]}
    assert found[first["sandboxID"]]["cpuCount"] == 1
    assert_error(await platform.api.get("/e2b/sandboxes/metrics"), 400)
    assert_error(await platform.api.get("/e2b/sandboxes/metrics?sandbox_ids=no-id"), 400)
    too_many = ",".join([UNKNOWN] * 101)
    assert_error(await platform.api.get(f"/e2b/sandboxes/metrics?sandbox_ids={too_many}"), 400)


async def test_snapshots_of_another_team_are_not_found(platform: Platform):
    made = (await platform.api.post("/e2b/v2/sandboxes", json=NEW)).json()
    answer = await platform.api.post(f"/e2b/sandboxes/{made['sandboxID']}/snapshots", json={"name": "mine"})
    assert (answer.status_code, answer.json()) == (
        201,
        {"snapshotID": "mine:default", "names": ["mine:default"]},
    )
    async with client(platform.url, await platform.other_team("trudy")) as other:
        assert (await other.get("/e2b/snapshots")).json() == []
        assert_error(await other.post("/e2b/v2/sandboxes", json={"templateID": "mine:default"}), 404)
        assert_error(await other.delete("/e2b/templates/mine%3Adefault"), 404)
        assert_error(await other.post(f"/e2b/sandboxes/{made['sandboxID']}/snapshots", json={}), 404)
    assert_error(await platform.api.get("/e2b/snapshots?nextToken=x"), 400)
    by_name = (await platform.api.get("/e2b/snapshots?name=mine:default")).json()
    by_sandbox = (await platform.api.get(f"/e2b/snapshots?sandboxID={made['sandboxID']}")).json()
    assert by_name == by_sandbox == [answer.json()]
    for query in ("name=other", f"sandboxID={UNKNOWN}", "sandboxID=no-id"):
        assert (await platform.api.get(f"/e2b/snapshots?{query}")).json() == []
    assert (await platform.api.delete("/e2b/templates/mine%3Adefault")).status_code == 204
    assert_error(await platform.api.delete("/e2b/templates/mine%3Adefault"), 404)
