"""Wrong input is a clear 4xx in the platform's shape, and changes nothing."""

from __future__ import annotations

import json

import pytest

from .conftest import Platform, client, refused

UNKNOWN = "/v1/sandboxes/cl-" + "0" * 25
JSON = {"Content-Type": "application/json"}

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest.fixture
def platform(team_platform: Platform) -> Platform:
    """The module's, with a team of the test's own."""
    return team_platform


BAD_CREATES: list[tuple[object, str]] = [
    ({"vcpus": 0}, "between 1 and 8"),
    ({"vcpus": 9}, "between 1 and 8"),
    ({"vcpus": 10**30}, "vcpus"),
    ({"vcpus": "2"}, "vcpus"),
    ({"vcpus": 1.5}, "vcpus"),
    ({"vcpus": True}, "vcpus"),
    ({"memory_mb": 127}, "between 128 and 8192"),
    ({"memory_mb": 8193}, "between 128 and 8192"),
    ({"timeout_sec": -1}, "timeout_sec"),
    ({"template": ""}, "template"),
    ({"template": "../etc"}, "template"),
    ({"template": "a" * 65}, "template"),
    ({"template": "minimal\n"}, "template"),
    ({"template": 7}, "template"),
    ({"envs": {"A": 1}}, "envs"),
    ({"envs": {"A=B": "1"}}, "envs"),
    ({"envs": {"": "1"}}, "envs"),
    ({"envs": {"A": "\0"}}, "envs"),
    ({"envs": {"A": "\ud800"}}, "envs"),
    ({"envs": []}, "envs"),
    ({"public_ports": [0]}, "public_ports"),
    ({"public_ports": [65536]}, "public_ports"),
    ({"public_ports": ["80"]}, "public_ports"),
    ({"public_ports": [True]}, "public_ports"),
    ({"public_ports": 80}, "public_ports"),
    ({"public_ports": list(range(1, 34))}, "public_ports"),
    ([], "JSON object"),
    ("text", "JSON object"),
]


async def test_a_bad_create_is_refused(platform: Platform, subtests: pytest.Subtests):
    for body, says in BAD_CREATES:
        with subtests.test(f"{body!r} {says!r}"[:120]):
            answer = await platform.api.post("/v1/sandboxes", content=json.dumps(body).encode(), headers=JSON)
            assert says in refused(answer, 400, "invalid_request")
            assert (await platform.api.get("/v1/sandboxes")).json() == []


MALFORMED_JSON = [b"", b"{", b"\xff\xfe", b'{"vcpus": NaN}', b"[" * 100_000, b'{"template": "\xff"}', b"null"]


async def test_malformed_json_is_refused(platform: Platform, subtests: pytest.Subtests):
    for content in MALFORMED_JSON:
        with subtests.test(f"{content!r}"[:120]):
            for path in ("/v1/sandboxes", f"{UNKNOWN}/exec"):
                refused(await platform.api.post(path, content=content, headers=JSON), 400, "invalid_request")


async def test_null_counts_as_absent(platform: Platform):
    answer = await platform.api.post(
        "/v1/sandboxes", json={"vcpus": None, "template": None, "network": {"allow": None}}
    )
    assert answer.status_code == 201


async def test_an_unknown_template_is_not_found(platform: Platform):
    answer = await platform.api.post("/v1/sandboxes", json={"template": "no-such"})
    assert "no-such" in refused(answer, 404, "not_found")


MALFORMED_IDS = [
    "x",
    "cl-",
    "cl-" + "0" * 24,
    "cl-" + "0" * 26,
    "cl-" + "z" * 25,
    "cl-" + "A" * 25,
    "sb-" + "0" * 25,
]


async def test_a_malformed_id_is_a_bad_request_and_an_unknown_one_not_found(
    platform: Platform, subtests: pytest.Subtests
):
    for sandbox_id in MALFORMED_IDS:
        with subtests.test(f"{sandbox_id!r}"[:120]):
            for method, rest in (("GET", ""), ("DELETE", ""), ("POST", "/ping")):
                answer = await platform.api.request(method, f"/v1/sandboxes/{sandbox_id}{rest}")
                refused(answer, 400, "invalid_request")
                refused(await platform.api.request(method, UNKNOWN + rest), 404, "not_found")


BAD_KEYS = [None, "", "wrn_", "wrn_" + "0" * 32, "Bearer x", "wrn_" + "0" * 5000, "\xe9"]


async def test_without_a_valid_key_nothing_is_returned(platform: Platform, subtests: pytest.Subtests):
    for key in BAD_KEYS:
        with subtests.test(f"{key!r}"[:120]):
            headers = [] if key is None else [(b"X-API-Key", key.encode("latin-1"))]
            async with client(platform.url, None) as api:
                for path in ("/v1/sandboxes", UNKNOWN, "/v1/sandboxes/not-an-id", "/v1/capsules"):
                    refused(await api.get(path, headers=headers), 401, "unauthorized")
                answer = await api.post("/v1/sandboxes", json={}, headers=headers)
                refused(answer, 401, "unauthorized")


async def test_unknown_paths_and_methods_have_the_platforms_shape(platform: Platform):
    for path in ("/", "/v1", "/v1/sandbox", "/v1/sandboxes/", "/v1/sandboxes/x/y"):
        refused(await platform.api.get(path), 404, "not_found")
    answer = await platform.api.put("/v1/sandboxes")
    refused(answer, 405, "invalid_request")
    assert answer.headers["allow"]


async def test_a_body_above_its_limit_is_refused_whether_it_is_announced_or_not(platform: Platform):
    body = b'{"template": "' + b"a" * (1024 * 1024) + b'"}'

    async def unannounced():
        for start in range(0, len(body), 65536):
            yield body[start : start + 65536]

    for content in (body, unannounced()):
        refused(await platform.api.post("/v1/sandboxes", content=content, headers=JSON), 413, "too_large")
    assert (await platform.api.get("/health")).status_code == 200


async def test_a_bad_idempotency_key_is_refused(platform: Platform, subtests: pytest.Subtests):
    for key in ["", "a" * 256, "tab\there", "\xe9"]:
        with subtests.test(f"{key!r}"[:120]):
            headers = [(b"Idempotency-Key", key.encode("latin-1"))]
            answer = await platform.api.post("/v1/sandboxes", json={}, headers=headers)
            assert "Idempotency-Key" in refused(answer, 400, "invalid_request")


BAD_EXECS: list[tuple[dict[str, object], str]] = [
    ({}, "cmd"),
    ({"cmd": ""}, "cmd"),
    ({"cmd": "a\0b"}, "cmd"),
    ({"cmd": "true", "args": "x"}, "args"),
    ({"cmd": "true", "args": ["a\0"]}, "args.0"),
    ({"cmd": "true", "timeout_sec": -1}, "timeout_sec"),
    ({"cmd": "true", "timeout_sec": 86401}, "86400"),
    ({"cmd": "true", "cwd": "relative"}, "absolute"),
    ({"cmd": "true", "user": "no such user"}, "user"),
    ({"cmd": "true", "background": "yes"}, "background"),
    ({"cmd": "true", "background": True, "tag": "7"}, "tag"),
    ({"cmd": "true", "background": True, "tag": ""}, "tag"),
]


async def test_a_bad_exec_is_refused(platform: Platform, subtests: pytest.Subtests):
    for body, says in BAD_EXECS:
        with subtests.test(f"{body!r} {says!r}"[:120]):
            assert says in refused(
                await platform.api.post(f"{UNKNOWN}/exec", json=body), 400, "invalid_request"
            )


BAD_PATHS = [
    ("relative/path", "absolute"),
    ("", "absolute"),
    ("/a\0b", "NUL"),
    ("/" + "a" * 256, "255"),
    ("/" + "é" * 128, "255"),
    ("/" + "a/" * 2048, "4096"),
    ("/\udcff", "path"),
]


async def test_a_bad_path_is_refused(platform: Platform, subtests: pytest.Subtests):
    for path, says in BAD_PATHS:
        for verb in ["read", "stream/read", "list", "mkdir", "remove", "stat"]:
            with subtests.test(f"{path!r} {says!r} {verb!r}"[:120]):
                body = json.dumps({"path": path}).encode()
                answer = await platform.api.post(f"{UNKNOWN}/files/{verb}", content=body, headers=JSON)
                assert says in refused(answer, 400, "invalid_request")


async def test_other_signals_are_refused(platform: Platform):
    path = await platform.create()
    answer = await platform.api.delete(f"{path}/processes/1", params={"signal": "SIGSEGV"})
    assert "SIGTERM" in refused(answer, 400, "invalid_request")
    for selector in ("99999999999999999999", "4194305", "no-such", "%00"):
        refused(await platform.api.delete(f"{path}/processes/{selector}"), 404, "not_found")
