"""Nothing in a request is silently ignored: unknown fields, parts and query parameters, and sizes that cannot be."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator

import httpx2
import pytest
import pytest_asyncio
from websockets.asyncio.client import connect

from .conftest import Platform, refused
from .people import People

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(loop_scope="module")
async def shared(people: People) -> AsyncIterator[Platform]:
    """The module's platform, without sandboxes at the end."""
    platform = people.platform
    yield platform
    for sandbox in (await platform.api.get("/v1/sandboxes")).json():
        await platform.api.delete(f"/v1/sandboxes/{sandbox['id']}")


BODIES: list[tuple[str, str, dict[str, object], str]] = [
    ("POST", "", {"vcpu": 2}, "'vcpus'"),
    ("POST", "", {"Memory_MB": 512}, "'memory_mb'"),
    ("POST", "", {"zzz": 1}, "known are"),
    ("POST", "", {"vcpuz": None}, "'vcpus'"),
    ("POST", "", {"network": {"allow_inet": False}}, "'allow_internet'"),
    ("POST", "", {"é\u202e" * 100: 1}, "known are"),
    ("PATCH", "/{id}/network", {"alow": []}, "'allow'"),
    ("PATCH", "/{id}/timeout", {"timeout": 1}, "'timeout_sec'"),
    ("POST", "/{id}/fork", {"number": 1}, "known are count"),
    ("POST", "/{id}/exec", {"cmd": "true", "env": {}}, "'envs'"),
    ("POST", "/{id}/files/list", {"path": "/", "dept": 1}, "'depth'"),
    ("POST", "/{id}/files/read", {"path": "/", "usr": "root"}, "'user'"),
    ("POST", "/{id}/ports/80/link", {"expires_in": 5}, "'expires_in_sec'"),
]


@pytest.mark.parametrize(("method", "where", "body", "words"), BODIES)
async def test_an_unknown_field_is_refused_with_the_nearest_known_name(
    shared: Platform, method: str, where: str, body: dict[str, object], words: str
):
    path = "/v1/sandboxes" + where.replace("{id}", "cl-" + "0" * 25)
    message = refused(await shared.api.request(method, path, json=body), 400, "invalid_request")
    assert words in message
    assert "no field" in message
    assert len(message) < 500
    assert message.isascii()


async def test_an_unknown_field_of_other_features_is_refused(shared: Platform):
    for path, body, words in [
        ("/v1/snapshots", {"sandbox_id": "cl-x", "nme": "a"}, "'name'"),
        ("/v1/auth/login", {"email": "a@example.com", "password": "x", "pasword": "y"}, "'password'"),
    ]:
        message = refused(await shared.api.post(path, json=body), 400, "invalid_request")
        assert words in message


@pytest.mark.parametrize(
    ("path", "words"),
    [
        ("/v1/sandboxes?status=running", "'state'"),
        ("/v1/capsules?metdata=a%3Db", "'metadata'"),
        ("/v1/snapshots?typ=base", "'type'"),
        ("/v1/audit-logs?lmit=1", "'limit'"),
        ("/v1/sandboxes/cl-0000000000000000000000000?x=1", "none is known here"),
    ],
)
async def test_an_unknown_query_parameter_is_refused(shared: Platform, path: str, words: str):
    message = refused(await shared.api.get(path), 400, "invalid_request")
    assert "no query parameter" in message
    assert words in message


async def test_an_unknown_part_of_an_upload_is_refused(shared: Platform):
    path = await shared.create()
    form = {"path": (None, "/root/a"), "mod": (None, "600"), "file": ("a", b"x")}
    answer = await shared.api.post(f"{path}/files/write", files=form)
    assert "'mode'" in refused(answer, 400, "invalid_request")


async def test_an_unknown_field_of_a_streams_message_is_refused(shared: Platform):
    path = await shared.create()
    url = shared.url.replace("http:", "ws:") + path
    headers = {"X-API-Key": shared.key.reveal()}
    for endpoint, message in [
        ("exec/stream", {"type": "start", "cmd": "true", "tmeout_sec": 5}),
        ("pty", {"type": "start", "cmd": "/bin/sh", "col": 80}),
    ]:
        async with connect(f"{url}/{endpoint}", additional_headers=headers, proxy=None) as socket:
            await socket.send(json.dumps(message))
            answer = json.loads(await socket.recv())
            assert answer["type"] == "error", answer
            assert "nearest is" in str(answer)


async def test_a_size_that_a_snapshot_does_not_have_is_refused(shared: Platform):
    path = await shared.create(vcpus=2, memory_mb=256)
    sandbox_id = path.rpartition("/")[2]
    made = await shared.api.post("/v1/snapshots", json={"sandbox_id": sandbox_id, "name": "sized"})
    assert made.status_code == 201, made.text
    for body, words in [
        ({"vcpus": 1}, "vcpus"),
        ({"memory_mb": 512}, "memory_mb"),
        ({"vcpus": 2, "memory_mb": 128}, "memory_mb"),
    ]:
        answer = await shared.api.post("/v1/sandboxes", json={"template": "sized", **body})
        assert words in refused(answer, 400, "invalid_request")
    for body in ({}, {"vcpus": 2}, {"vcpus": 2, "memory_mb": 256}):
        found = (await shared.api.get(await shared.create(template="sized", **body))).json()
        assert (found["vcpus"], found["memory_mb"]) == (2, 256)


async def test_every_body_of_the_public_client_is_accepted(shared: Platform):
    """What `wrenn` 0.1.2 of PyPI sends; its own tests with the client itself are elsewhere."""
    api = shared.api
    assert (await api.post("/v1/capsules", json={})).status_code == 201
    full = {"template": "minimal", "vcpus": 1, "memory_mb": 512, "timeout_sec": 60}
    capsule = (await api.post("/v1/capsules", json=full)).json()
    path = f"/v1/capsules/{capsule['id']}"

    async def post(where: str, body: dict[str, object], **options: object) -> httpx2.Response:
        answer = await api.post(f"{path}{where}", json=body, **options)  # type: ignore[arg-type]
        assert answer.status_code < 300, answer.text
        return answer

    shell = {"cmd": "/bin/sh", "args": ["-c", "true"]}
    await post("/exec", {**shell, "background": False, "timeout_sec": 30, "envs": {"A": "1"}, "cwd": "/root"})
    await post("/exec", {**shell, "background": True, "tag": "t", "envs": {}, "cwd": "/root"})
    await post("/files/mkdir", {"path": "/root/d"})
    form = {"path": (None, "/root/d/f"), "file": ("f", b"x")}
    assert (await api.post(f"{path}/files/write", files=form)).status_code == 204
    await post("/files/read", {"path": "/root/d/f"})
    await post("/files/stream/read", {"path": "/root/d/f"})
    await post("/files/list", {"path": "/root", "depth": 1})
    await post("/files/remove", {"path": "/root/d"})
    template = {"sandbox_id": capsule["id"], "name": "public"}
    assert (await api.post("/v1/snapshots", json=template)).status_code == 201
    again = await api.post("/v1/snapshots", json=template, params={"overwrite": "true"})
    assert again.status_code == 201
    assert (await api.get("/v1/snapshots", params={"type": "snapshot"})).status_code == 200
    headers = {"X-API-Key": shared.key.reveal()}
    url = shared.url.replace("http:", "ws:") + path
    async with connect(f"{url}/exec/stream", additional_headers=headers, proxy=None) as socket:
        await socket.send(json.dumps({"type": "start", **shell}))
        assert json.loads(await socket.recv())["type"] == "start"
    async with connect(f"{url}/pty", additional_headers=headers, proxy=None) as socket:
        start: dict[str, object] = {
            "type": "start",
            "cmd": "/bin/sh",
            "cols": 80,
            "rows": 24,
            "args": [],
            "envs": {},
            "cwd": "/root",
        }
        await socket.send(json.dumps(start))
        assert json.loads(await socket.recv())["type"] == "started"
        await socket.send(json.dumps({"type": "resize", "cols": 100, "rows": 30}))
        await socket.send(json.dumps({"type": "input", "data": "ZXhpdAo="}))
        await socket.send(json.dumps({"type": "kill"}))
