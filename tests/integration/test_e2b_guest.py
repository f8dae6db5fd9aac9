"""The guest agent of a sandbox as clients of the e2b API reach it: who may, what they reach, and what they are told."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
import struct
import time
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any

import httpx2
import pytest
import pytest_asyncio

from wrenn.base.ids import SandboxId
from wrenn.base.secrets import Secret
from wrenn.base.units import MIB

from .conftest import DEADLINE_S, Platform, client
from .guest_programs import OK, answering, program

pytestmark = pytest.mark.asyncio(loop_scope="module")

_MISSING = "The sandbox was not found"


@pytest.fixture
def platform(team_platform: Platform) -> Platform:
    """The module's, with a team of the test's own."""
    return team_platform


@pytest_asyncio.fixture(loop_scope="module")
async def path(platform: Platform) -> str:
    return await platform.create()


def bare(path: str) -> str:
    """The id of a sandbox as e2b's clients write it."""
    return path.rpartition("/")[2].removeprefix("cl-")


def token_of(platform: Platform, path: str) -> str:
    """The access token of a sandbox."""
    sandbox_id = SandboxId.parse(path.rpartition("/")[2])
    return platform.control.services.access_tokens.of(sandbox_id).reveal()


def routed(path: str, port: int = 49983, /, **more: str) -> dict[str, str]:
    """The headers with which e2b's clients select a port."""
    return {"E2b-Sandbox-Id": bare(path), "E2b-Sandbox-Port": str(port), **more}


def named(path: str, port: int = 49983, /, **more: str) -> dict[str, str]:
    """The host name of a port, with an id as e2b's clients write it."""
    return {"Host": f"{port}-{bare(path)}.sandboxes.test", **more}


@asynccontextmanager
async def guest(platform: Platform, path: str, **more: str) -> AsyncGenerator[httpx2.AsyncClient]:
    """A client of the guest agent with the sandbox's token, as the SDKs have it."""
    async with client(platform.url, None) as http:
        http.headers.update(routed(path, **{"X-Access-Token": token_of(platform, path)}) | more)
        yield http


def refused(answer: httpx2.Response, status: int) -> str:
    """Check an error in e2b's format, and return its message."""
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/json"
    said = answer.json()
    assert said["code"] == status
    return said["message"]


def signed(token: str, path: str, operation: str = "read", *, expiration: str = "") -> dict[str, str]:
    """The query of a signed URL, as the SDKs make it."""
    text = f"{path}:{operation}::{token}" + (f":{expiration}" if expiration else "")
    digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).rstrip(b"=").decode()
    query = {"path": path, "signature": f"v1_{digest}"}
    return query | ({"signature_expiration": expiration} if expiration else {})


def frame(message: dict[str, Any]) -> bytes:
    body = json.dumps(message).encode()
    return struct.pack(">BI", 0, len(body)) + body


_CONNECT = {"Content-Type": "application/connect+json", "Connect-Protocol-Version": "1"}


async def test_calls_of_the_guest_agent_pass_by_host_name_and_by_headers(platform: Platform, path: str):
    token = {"X-Access-Token": token_of(platform, path)}
    async with client(platform.url, None) as http:
        for select in (named, routed):
            assert (await http.get("/health", headers=select(path, **token))).status_code == 204
            answer = await http.post("/process.Process/List", json={}, headers=select(path, **token))
            assert answer.json() == {}
            written = await http.post(
                "/files",
                params={"path": f"{select.__name__}.txt"},
                content=b"text",
                headers=select(path, **token, **{"Content-Type": "application/octet-stream"}),
            )
            assert [each["name"] for each in written.json()] == [f"{select.__name__}.txt"]
            read = await http.get(
                "/files", params={"path": f"{select.__name__}.txt"}, headers=select(path, **token)
            )
            assert read.content == b"text"
            assert "cpu_count" in (await http.get("/metrics", headers=select(path, **token))).json()
            assert (await http.get("/envs", headers=select(path, **token))).status_code == 200


async def test_output_of_a_process_arrives_as_it_is_written(platform: Platform, path: str):
    process = {"cmd": "/bin/sh", "args": ["-c", "echo one; read line; echo $line"]}
    async with guest(platform, path) as http, asyncio.timeout(DEADLINE_S):
        start = frame({"process": process, "tag": "t"})
        async with http.stream("POST", "/process.Process/Start", content=start, headers=_CONNECT) as answer:
            assert answer.status_code == 200
            assert "connection" not in answer.headers
            assert "content-encoding" not in answer.headers
            received = b""
            chunks = answer.aiter_raw()
            while base64.b64encode(b"one\n") not in received:
                received += await anext(chunks)
            said = {"process": {"tag": "t"}, "input": {"stdin": base64.b64encode(b"two\n").decode()}}
            assert (await http.post("/process.Process/SendInput", json=said)).status_code == 200
            async for chunk in chunks:
                received += chunk
            assert base64.b64encode(b"two\n") in received
            assert received.endswith(b"{}")


async def test_only_what_e2b_offers_is_reached(platform: Platform, path: str, subtests: pytest.Subtests):
    paths = [
        "/", "/init", "/connect?port=1", "/snapshot/prepare", "/snapshot/finish", "/disk/grow", "/disk/settle", "/files/tar",
        "/listeners", "/processes", "//init", "/%69nit", "/%2finit", "/files/../init", "/files/%2e%2e/init", "/health/../init",
        "/process.Process/../init", "/process.Process/%2e%2e/init", "/process.Process/", "/process.Process//List",
        "/files/", "/health/", "/HEALTH", "/freeze", "/upgrade",
    ]  # fmt: skip
    for method in ("GET", "POST"):
        for target in paths:
            for key in (None, platform.key):
                with subtests.test(f"{method} {target} {key}"):
                    answer = await raw(platform, path, f"{method} {target}", key=key)
                    assert answer.startswith(b"HTTP/1.1 404 "), answer
    for target in ("http://elsewhere/init", "http://elsewhere//init", "*"):
        with subtests.test(target):
            answer = await raw(platform, path, f"GET {target}")
            assert answer[9:12] in (b"400", b"404"), answer


async def raw(
    platform: Platform, path: str, request: str, *, key: Secret | None = None, more: str = ""
) -> bytes:
    """The begin of the answer to a request that no client would make."""
    url = httpx2.URL(platform.url)
    reader, writer = await asyncio.open_connection(url.host, url.port)
    head = "".join(f"{name}: {value}\r\n" for name, value in routed(path).items())
    head += f"X-Access-Token: {token_of(platform, path)}\r\n" + (
        f"X-API-Key: {key.reveal()}\r\n" if key else ""
    )
    writer.write(f"{request} HTTP/1.1\r\nHost: a\r\n{head}{more}Content-Length: 0\r\n\r\n".encode())
    try:
        async with asyncio.timeout(DEADLINE_S):
            return await reader.read(4096)
    finally:
        writer.close()


async def test_headers_cannot_be_smuggled(platform: Platform, path: str):
    other = bare(await platform.create())
    for more in (
        f"E2b-Sandbox-Id: {other}\r\n",
        "E2b-Sandbox-Port: 80\r\n",
    ):
        assert (await raw(platform, path, "GET /health", more=more))[9:12] == b"400"
    # The host's headers mean nothing here.
    answer = await raw(
        platform, path, "GET /envs", more="Connection: X-Access-Token\r\nwrenn-request-id: x\r\n"
    )
    assert answer[9:12] == b"200"


async def test_who_may_call_the_guest_agent(platform: Platform, path: str, subtests: pytest.Subtests):
    other = await platform.create()
    stranger = (await platform.other_team()).reveal()
    gone = await platform.create()
    assert (await platform.api.delete(gone)).status_code == 204
    nobody = "cl-" + "0" * 25
    token, key = token_of(platform, path), platform.key.reveal()
    cases: list[tuple[str, dict[str, str], int]] = [
        (path, {"X-Access-Token": token}, 200),
        (path, {"X-API-Key": key}, 200),
        (path, {"X-Access-Token": token, "X-API-Key": stranger}, 200),
        (path, {}, 401),
        (path, {"X-Access-Token": ""}, 401),
        (path, {"X-Access-Token": token.upper()}, 401),
        (path, {"X-Access-Token": token_of(platform, other)}, 401),
        (path, {"X-API-Key": "nonsense"}, 401),
        (path, {"X-API-Key": stranger}, 502),
        (path, {"Authorization": f"Bearer {token}"}, 401),
        (gone, {"X-Access-Token": token_of(platform, gone)}, 502),
        (gone, {"X-Access-Token": token}, 401),
        (nobody, {"X-Access-Token": token_of(platform, nobody)}, 502),
        (nobody, {"X-Access-Token": token}, 401),
        ("nosuchsandbox", {"X-Access-Token": token}, 502),
        ("no.such", {"X-Access-Token": token}, 400),
    ]
    async with client(platform.url, None) as http:
        for where, headers, status in cases:
            with subtests.test(f"{where[-8:]} {list(headers)} {status}"):
                answer = await http.get("/envs", headers=routed(where, **headers))
                if status == 200:
                    assert answer.status_code == 200
                else:
                    message = refused(answer, status)
                    assert (message == _MISSING) is (status == 502)
        # The host's token is not the sandbox's, and the guest never shows it.
        assert (
            token_of(platform, path)
            not in (await http.get("/envs", headers=routed(path, **{"X-API-Key": key}))).text
        )


async def test_health_is_answered_only_by_a_running_guest(platform: Platform, path: str):
    async with client(platform.url, None) as http:
        for token in ({}, {"X-Access-Token": token_of(platform, path)}, {"X-Access-Token": "wrong"}):
            assert (await http.get("/health", headers=routed(path, **token))).status_code == 204
        assert (await platform.api.post(f"{path}/pause")).status_code in (200, 202)
        await platform.wait_status(path, "paused")
        assert refused(await http.get("/health", headers=routed(path)), 502) == _MISSING
        assert (await platform.api.delete(path)).status_code == 204
        answer = await http.get("/health", headers=routed(path))
        assert refused(answer, 502) == _MISSING
        assert answer.json()["sandboxId"] == bare(path)


async def test_signed_urls_open_one_file(platform: Platform, path: str, subtests: pytest.Subtests):
    token = token_of(platform, path)
    async with guest(platform, path) as http:
        await http.post("/files", params={"path": "a b"}, content=b"mine", headers=_OCTETS)
    later, earlier = str(int(time.time()) + 60), str(int(time.time()) - 60)
    other = token_of(platform, await platform.create())
    cases: list[tuple[dict[str, str], int, str]] = [
        (signed(token, "a b"), 200, ""),
        (signed(token, "a b", expiration=later), 200, ""),
        (signed(token, "a b", expiration=earlier), 401, "signature is already expired"),
        (
            signed(token, "a b", expiration=earlier) | {"signature_expiration": later},
            401,
            "invalid signature",
        ),
        (signed(token, "a b") | {"path": "c"}, 401, "invalid signature"),
        (signed(token, "a b") | {"username": "root"}, 401, "invalid signature"),
        (signed(token, "a b", "write"), 401, "invalid signature"),
        (signed(other, "a b"), 401, "invalid signature"),
        ({"path": "a b"}, 401, "missing signature query parameter"),
        (signed(token, "missing"), 404, ""),
    ]
    async with client(platform.url, None) as http:
        for select in (named, routed):
            for query, status, message in cases:
                with subtests.test(f"{select.__name__} {query} {status}"):
                    answer = await http.get("/files", params=query, headers=select(path))
                    assert answer.status_code == status, answer.text
                    if status == 200:
                        assert answer.content == b"mine"
                    elif message:
                        assert refused(answer, status) == message
        written = await http.post(
            "/files", params=signed(token, "new", "write"), content=b"1", headers=named(path) | _OCTETS
        )
        assert written.status_code == 200, written.text
        for more in ({"mode": "4755"}, {"owner": "root"}, {"atomic": "true"}):
            query = signed(token, "new", "write") | more
            answer = await http.post("/files", params=query, content=b"1", headers=named(path) | _OCTETS)
            assert refused(answer, 401) == "missing signature query parameter"
        for target in ("/envs", "/process.Process/List"):
            refused(await http.post(target, params=signed(token, "a b"), headers=named(path)), 401)
        assert (await platform.api.delete(path)).status_code == 204
        answer = await http.get("/files", params=signed(token, "a b"), headers=named(path))
        assert refused(answer, 502) == _MISSING


_OCTETS = {"Content-Type": "application/octet-stream"}


async def test_ports_of_programs_are_reached_the_same_way(platform: Platform, path: str):
    seen: list[list[bytes]] = []
    async with program(answering(OK, seen)) as port:
        key = {"X-API-Key": platform.key.reveal()}
        for select in (named, routed):
            async with client(platform.url, None) as http:
                answer = await http.get("/x", headers=select(path, port, **key))
                assert (answer.status_code, answer.text) == (200, "ok")
                refused(await http.get("/x", headers=select(path, port)), 403)
        names = {line.partition(b":")[0] for head in seen for line in head[1:]}
        assert not {name for name in names if name.startswith((b"e2b-", b"x-api"))}
    async with client(platform.url, key=platform.key) as http:
        answer = await http.get("/", headers=routed(path, port))
        assert refused(answer, 502) == "The sandbox is running but port is not open"
        assert answer.json()["port"] == port


async def test_a_process_is_cut_off_when_its_sandbox_is_killed(platform: Platform, path: str):
    async with guest(platform, path) as http, asyncio.timeout(DEADLINE_S):
        start = frame({"process": {"cmd": "/bin/sh", "args": ["-c", "echo begun; sleep 60"]}})
        async with http.stream("POST", "/process.Process/Start", content=start, headers=_CONNECT) as answer:
            assert "connection" not in answer.headers
            chunks = answer.aiter_raw()
            await anext(chunks)
            assert (await platform.api.delete(path)).status_code == 204
            with pytest.raises(httpx2.RemoteProtocolError):  # no last chunk
                async for _ in chunks:
                    pass
        assert refused(await http.get("/health"), 502) == _MISSING


async def test_a_pause_does_not_wait_for_a_process_that_is_followed(
    platform: Platform, path: str, monkeypatch: pytest.MonkeyPatch
):
    # What a finite answer is waited for.
    monkeypatch.setattr("wrenn.agent.sandboxes.pause.GRACE_S", 2 * DEADLINE_S)
    async with guest(platform, path) as http, asyncio.timeout(DEADLINE_S):
        start = frame({"process": {"cmd": "/bin/sh", "args": ["-c", "echo begun; sleep 60"]}})
        async with http.stream("POST", "/process.Process/Start", content=start, headers=_CONNECT) as answer:
            await anext(answer.aiter_raw())
            assert (await platform.api.post(f"{path}/pause")).status_code in (200, 202)
            await platform.wait_status(path, "paused")


async def test_a_token_holds_over_a_pause_and_a_request_with_it_resumes(platform: Platform):
    path = await platform.create(auto_resume=True)
    token = token_of(platform, path)
    async with guest(platform, path) as http:
        await http.post("/files", params={"path": "f"}, content=b"kept", headers=_OCTETS)
        assert (await platform.api.post(f"{path}/pause")).status_code in (200, 202)
        await platform.wait_status(path, "paused")
        # Who has no token does not wake it up.
        async with client(platform.url, None) as stranger:
            for target in ("/health", "/files"):
                query = signed(token, "f") if target == "/files" else {}
                refused(await stranger.get(target, params=query, headers=routed(path)), 502)
        assert (await platform.api.get(path)).json()["status"] == "paused"
        assert (await http.get("/files", params={"path": "f"})).content == b"kept"


@pytest.mark.parametrize("length", [None, 24 * MIB])
async def test_large_files_pass_in_both_directions(platform: Platform, path: str, length: int | None):
    content = bytes(range(256)) * (24 * MIB // 256)

    async def pieces() -> AsyncGenerator[bytes]:
        for begin in range(0, len(content), MIB):
            yield content[begin : begin + MIB]

    async with guest(platform, path) as http:
        headers = _OCTETS | ({} if length is None else {"Content-Length": str(length)})
        written = await http.post("/files", params={"path": "big"}, content=pieces(), headers=headers)
        assert written.status_code == 200, written.text
        read = await http.get("/files", params={"path": "big"})
        assert read.headers["content-length"] == str(len(content))
        assert read.content == content


async def test_a_signed_url_without_a_sandbox_is_for_the_one_with_its_token(
    platform: Platform, path: str, subtests: pytest.Subtests
):
    others = [await platform.create() for _ in range(2)]
    for each in [path, *others]:
        async with guest(platform, each) as http:
            await http.post("/files", params={"path": "f"}, content=each.encode(), headers=_OCTETS)
    async with client(platform.url, None) as http:
        for each in [path, *others]:
            assert (await http.get("/files", params=signed(token_of(platform, each), "f"))).text == each
        token = token_of(platform, path)
        written = await http.post(
            "/files", params=signed(token, "new", "write"), content=b"1", headers=_OCTETS
        )
        assert written.status_code == 200, written.text
        earlier = str(int(time.time()) - 60)
        refusals = {
            "expired": (signed(token, "f", expiration=earlier), "signature is already expired"),
            "altered": (signed(token, "f") | {"path": "g"}, "invalid signature"),
            "other operation": (signed(token, "f", "write"), "invalid signature"),
            "of nobody": (signed(token_of(platform, "cl-" + "0" * 25), "f"), "invalid signature"),
            "too much": (signed(token, "f") | {"mode": "4755"}, None),
        }
        for name, (query, message) in refusals.items():
            with subtests.test(name):
                answer = await http.get("/files", params=query)
                if message is None:
                    assert answer.status_code in (404, 405)
                else:
                    assert refused(answer, 401) == message
        # Without a signature it is a path of the API.
        assert (await http.get("/files", params={"path": "f"})).status_code in (200, 404)
        assert (await http.get("/files", params={"path": "f"})).content != path.encode()
        assert (await platform.api.delete(path)).status_code == 204
        assert refused(await http.get("/files", params=signed(token, "f")), 401) == "invalid signature"


async def test_all_ports_of_a_sandbox_may_be_public(platform: Platform):
    async with program(answering(OK)) as port, client(platform.url, None) as http:
        path = await platform.create(all_ports_public=True)
        assert (await platform.api.get(path)).json()["all_ports_public"] is True
        copy = (await platform.api.post(f"{path}/fork", json={})).json()["sandboxes"][0]["id"]
        for each in (path, f"/v1/sandboxes/{copy}"):
            for select in (named, routed):
                assert (await http.get("/", headers=select(each, port))).text == "ok"
            refused(await http.get("/envs", headers=routed(each)), 401)
        gone = {"X-Access-Token": "wrong"}
        assert (await platform.api.delete(path)).status_code == 204
        assert refused(await http.get("/", headers=named(path, port, **gone)), 502) == _MISSING


async def test_private_ports_need_the_token_of_the_ports(platform: Platform, path: str):
    sandbox_id = SandboxId.parse(path.rpartition("/")[2])
    tokens = platform.control.services.traffic_tokens
    other = tokens.of(SandboxId.parse((await platform.create()).rpartition("/")[2])).reveal()
    async with program(answering(OK)) as port, client(platform.url, None) as http:
        for select in (named, routed):
            right = {"E2b-Traffic-Access-Token": tokens.of(sandbox_id).reveal()}
            assert (await http.get("/", headers=select(path, port, **right))).text == "ok"
            for wrong in (other, token_of(platform, path), "", "x"):
                headers = select(path, port, **{"E2b-Traffic-Access-Token": wrong})
                refused(await http.get("/", headers=headers), 403)
            # It does not open the guest agent.
            refused(await http.get("/envs", headers=select(path, 49983, **right)), 401)


async def test_programs_get_the_host_that_their_owner_wants(platform: Platform, subtests: pytest.Subtests):
    seen: list[list[bytes]] = []
    head = b"HTTP/1.1 302 Found\r\nContent-Length: 0\r\nLocation: http://inner.test:%d/next\r\n\r\n"
    async with client(platform.url, None) as http, program(answering(OK, seen)) as port:
        path = await platform.create(all_ports_public=True, request_host="inner.test:${PORT}")
        assert (await http.get("/", headers=named(path, port))).text == "ok"
        host = named(path, port)["Host"]
        assert f"host: inner.test:{port}".encode() in [line.lower() for line in seen[0]]
        assert f"x-forwarded-host: {host}".encode() in [line.lower() for line in seen[0]]
        # The guest agent is not meant.
        assert (await http.get("/health", headers=named(path))).status_code == 204

        async def redirecting(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.readuntil(b"\r\n\r\n")
            writer.write(head % writer.get_extra_info("sockname")[1])
            await writer.drain()

        async with program(redirecting) as other:
            answer = await http.get("/", headers=named(path, other))
            assert answer.headers["location"] == "/next"
    for bad in ("a b", "a\r\nX: 1", "${HOST}", "a/b", "x" * 256, "ü"):
        with subtests.test(bad[:20]):
            assert (await platform.api.post("/v1/sandboxes", json={"request_host": bad})).status_code == 400


async def test_the_token_of_a_sandbox_is_not_shown_to_its_programs(platform: Platform, path: str):
    seen: list[list[bytes]] = []
    key = {"X-API-Key": platform.key.reveal()}
    async with program(answering(OK, seen)) as port, client(platform.url, None) as http:
        for token in (token_of(platform, path), "a program's own"):
            await http.get("/", headers=routed(path, port, **key, **{"X-Access-Token": token}))
    shown = [line for head in seen for line in head if line.lower().startswith(b"x-access-token")]
    assert [line.partition(b": ")[2] for line in shown] == [b"a program's own"]


async def test_a_program_may_begin_to_listen_after_the_first_request(platform: Platform, path: str):
    async with program(answering(OK)) as port:
        pass
    async with client(platform.url, key=platform.key) as http, asyncio.timeout(DEADLINE_S):
        asked = asyncio.create_task(http.get("/", headers=routed(path, port)))
        await asyncio.sleep(0.25)

        async def late(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.readuntil(b"\r\n\r\n")
            writer.write(OK)
            writer.close()
            await writer.wait_closed()

        server = await asyncio.start_server(late, "127.0.0.1", port)
        try:
            assert (await asked).text == "ok"
        finally:
            server.close()


async def test_what_a_signed_url_without_a_sandbox_opens_is_no_page_of_the_apis_host(
    platform: Platform, path: str
):
    # Anybody can send such a link to a user of the dashboard, which is under the same host name.
    files = {
        "page.html": "application/octet-stream",
        "code.js": "application/octet-stream",
        "a.svg": "application/octet-stream",
    }
    files |= {"a.png": "image/png", "a.json": "application/json"}
    async with guest(platform, path) as http:
        for name in files:
            await http.post("/files", params={"path": name}, content=b"<script>", headers=_OCTETS)
    async with client(platform.url, None) as http:
        for name, kind in files.items():
            answer = await http.get("/files", params=signed(token_of(platform, path), name))
            assert answer.text == "<script>"
            assert answer.headers["content-type"] == kind
            assert answer.headers["content-disposition"] == "attachment"
            assert answer.headers["x-content-type-options"] == "nosniff"
            assert "sandbox" in answer.headers["content-security-policy"]


async def test_health_keeps_no_sandbox_awake(platform: Platform, path: str):
    sandbox_id = path.rpartition("/")[2]
    used_at = platform.host.age(sandbox_id, 100)
    async with client(platform.url, None) as http:
        for _ in range(3):
            assert (await http.get("/health", headers=routed(path))).status_code == 204
        assert platform.host.last_active_at(sandbox_id) == used_at
        refused(await http.post("/health", headers=routed(path)), 401)
    async with guest(platform, path) as http:
        assert (await http.get("/metrics")).status_code == 200
    assert platform.host.last_active_at(sandbox_id) > used_at


async def test_a_sandbox_whose_ports_were_all_public_has_only_those_that_are_set(platform: Platform):
    async with program(answering(OK)) as port:
        path = await platform.create(all_ports_public=True)
        async with client(platform.url, None) as http:
            assert (await http.get("/", headers=named(path, port))).status_code == 200
            changed = await platform.api.patch(path, json={"public_ports": []})
            assert changed.status_code == 200, changed.text
            assert refused(await http.get("/", headers=named(path, port)), 403)


async def test_code_is_run_only_for_who_has_the_token_even_if_all_ports_are_public(platform: Platform):
    # The id is in the address of every page that the sandbox serves.
    path = await platform.create(all_ports_public=True)
    body = {"code": "1"}
    async with client(platform.url, None) as http:
        for select in (named, routed):
            refused(await http.post("/execute", json=body, headers=select(path, 49999)), 403)
            wrong = select(path, 49999, **{"X-Access-Token": "wrong"})
            refused(await http.post("/execute", json=body, headers=wrong), 403)
            right = select(path, 49999, **{"X-Access-Token": token_of(platform, path)})
            # Nothing listens there.
            assert "port is not open" in refused(await http.post("/execute", json=body, headers=right), 502)
