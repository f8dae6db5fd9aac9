"""Ports of sandboxes through the control plane: what passes, and what becomes of a visit when the sandbox changes."""

from __future__ import annotations

import asyncio
import json
from contextlib import suppress

import httpx2
import pytest
import pytest_asyncio
import websockets
from websockets.asyncio.client import connect

from wrenn.base.units import MIB
from wrenn.control.proxy import LinkSigner
from wrenn.guest import ports as guest_ports

from .conftest import DEADLINE_S, Platform, client, refused, run_sql, running_platform
from .event_reader import reading
from .guest_programs import (
    OK,
    answering,
    echo_body,
    echo_messages,
    program,
    read_head,
    silent_program,
    socket_program,
)

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest.fixture
def platform(team_platform: Platform) -> Platform:
    """The module's, with a team of the test's own."""
    return team_platform


@pytest_asyncio.fixture(loop_scope="module")
async def path(platform: Platform) -> str:
    return await platform.create()


def host_of(path: str, port: int) -> str:
    """The host name of a port."""
    return f"{port}-{path.rpartition('/')[2]}.sandboxes.test"


def headers_of(path: str, port: int, **more: str) -> dict[str, str]:
    return {"Host": host_of(path, port), **more}


async def test_a_request_passes_unchanged(platform: Platform, path: str, subtests: pytest.Subtests):
    seen: list[list[bytes]] = []
    async with program(answering(OK, seen)) as port:
        for target in [
            "/", "/a/", "/a//b/", "//a", "/a/../b", "/%2e%2e/%2F%20", "/a?x=1&y=%20&x=2", "/a%", "/;p?q=/?",
        ]:  # fmt: skip
            with subtests.test(target):
                reader, writer = await open_raw(platform)
                writer.write(
                    f"GET {target} HTTP/1.1\r\nHost: {host_of(path, port)}\r\nX-API-Key: {platform.key.reveal()}\r\n"
                    "Accept: */*\r\nX-Thing: \u00e9\r\nX-Thing: two\r\n\r\n".encode()
                )
                assert (await read_head(reader))[0] == b"HTTP/1.1 200 OK"
                writer.close()
                line, *headers = seen.pop()
                assert line.decode() == f"GET {target} HTTP/1.1"
                assert [h for h in headers if h.startswith(b"x-thing")] == [
                    "x-thing: é".encode(),
                    b"x-thing: two",
                ]


async def open_raw(platform: Platform) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    url = httpx2.URL(platform.url)
    return await asyncio.open_connection(url.host, url.port)


async def test_the_program_sees_the_clients_host_and_nothing_of_ours(platform: Platform, path: str):
    seen: list[list[bytes]] = []
    async with program(answering(OK, seen)) as port:
        answer = await platform.api.get(
            "/",
            headers=headers_of(
                path,
                port,
                Cookie="a=1; wrenn_link=secret; b=2; wrenn_session=secret; =wrenn_link=secret; __host-wrenn_x=secret",
                Connection="close, X-Private",
                **{
                    "X-Private": "1",
                    "X-Forwarded-For": "1.1.1.1, 6.6.6.6",
                    "TE": "trailers",
                    "Forwarded": "for=6.6.6.6",
                    "X-Wrenn-Anything": "6",
                    "X_Wrenn_Sandbox": "6",
                    "X_API_Key": "6",
                    "X_Forwarded_For": "6.6.6.6",
                },
            ),
        )
    assert answer.text == "ok"
    headers = [line.decode() for line in seen[0][1:]]
    named = dict(line.split(": ", 1) for line in headers)
    names = {name.lower() for name in named}
    assert named["host"] == host_of(path, port)
    assert named["cookie"] == "a=1; b=2"
    # Nobody is a trusted proxy here, so what the client says of itself is not passed on.
    assert named["x-forwarded-for"] == "127.0.0.1"
    assert named["x-forwarded-proto"] == "http"
    assert named["x-forwarded-host"] == host_of(path, port)
    assert not [name for name in named if name.startswith("wrenn-")]
    plain = {name.replace("_", "-") for name in names}
    assert not plain & {"x-api-key", "x-private", "te", "forwarded"}
    assert not any(name.startswith("x-wrenn-") for name in plain)
    assert "x_forwarded_for" not in names
    assert platform.key.reveal() not in "".join(headers)


async def test_a_port_is_reached_by_headers_where_names_cannot(platform: Platform, path: str):
    seen: list[list[bytes]] = []
    sandbox_id = path.rpartition("/")[2]
    async with program(answering(OK, seen)) as port:
        names = {"X-Wrenn-Sandbox": sandbox_id, "X-Wrenn-Port": str(port)}
        answer = await platform.api.get("/v1/sandboxes", headers=names)
        assert answer.text == "ok"
        # The host name may be that of the API's own pages: nothing is kept there, and it is no page of theirs.
        assert answer.headers["cache-control"] == "no-store"
        assert "sandbox" in answer.headers["content-security-policy"]
        for page in ("/", "/_app/immutable/entry/start.js"):  # of the dashboard
            answer = await platform.api.get(page, headers={**names, "Accept": "text/html"})
            assert answer.text == "ok"
            assert answer.headers["cache-control"] == "no-store"
            assert "sandbox" in answer.headers["content-security-policy"]
        answer = await platform.api.get("/v1/sandboxes", headers={"X-Wrenn-Port": str(port)})
        refused(answer, 400, "invalid_request")
    assert seen[0][0] == b"GET /v1/sandboxes HTTP/1.1"


async def test_bodies_stream_both_ways_as_they_come(platform: Platform, path: str):
    async with program(echo_body) as port, asyncio.timeout(DEADLINE_S):
        reader, writer = await open_raw(platform)
        writer.write(
            f"POST / HTTP/1.1\r\nHost: {host_of(path, port)}\r\nX-API-Key: {platform.key.reveal()}\r\n"
            "Transfer-Encoding: chunked\r\n\r\n5\r\nfirst\r\n".encode()
        )
        await read_head(reader)
        assert await reader.readexactly(10) == b"5\r\nfirst\r\n"
        writer.write(b"6\r\nsecond\r\n")
        assert await reader.readexactly(11) == b"6\r\nsecond\r\n"
        writer.write(b"0\r\n\r\n")
        assert await reader.readexactly(5) == b"0\r\n\r\n"
        writer.close()


async def test_long_bodies_arrive_whole(platform: Platform, path: str, subtests: pytest.Subtests):
    async with program(echo_body) as port:
        for size in [0, 1, 65536, 65537, 8 * MIB]:
            with subtests.test(f"{size}"):
                body = bytes(range(256)) * (size // 256) + b"x" * (size % 256)
                answer = await platform.api.post("/", content=body, headers=headers_of(path, port))
                assert answer.content == body


async def test_answers_keep_their_form(platform: Platform, path: str, subtests: pytest.Subtests):
    cases = {
        "length": (OK, 200, b"ok"),
        "until the end": (b"HTTP/1.0 200 OK\r\n\r\nuntil the end", 200, b"until the end"),
        "nothing": (b"HTTP/1.1 204 No Content\r\n\r\n", 204, b""),
        "not modified": (b"HTTP/1.1 304 Not Modified\r\nContent-Length: 5\r\n\r\n", 304, b""),
        "early hint": (b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n" + OK, 200, b"ok"),
        "own error": (b"HTTP/1.1 502 Bad\r\nContent-Length: 4\r\n\r\nmine", 502, b"mine"),
    }
    for name, (answer, status, body) in cases.items():

        async def once(
            reader: asyncio.StreamReader, writer: asyncio.StreamWriter, answer: bytes = answer
        ) -> None:
            await read_head(reader)
            writer.write(answer)
            await writer.drain()
            writer.close()
            await writer.wait_closed()

        with subtests.test(name):
            async with program(once) as port:
                got = await platform.api.get("/", headers=headers_of(path, port))
                assert (got.status_code, got.content) == (status, body)


async def test_what_an_answer_says_holds_for_its_own_host_only(platform: Platform, path: str):
    head = (
        "HTTP/1.1 302 Found\r\nContent-Length: 0\r\nDate: Thu, 01 Jan 1970 00:00:00 GMT\r\n"
        "Set-Cookie: a=1; Domain=sandboxes.test; Path=/\r\nSet-Cookie: b=2; HttpOnly\r\n"
        "Set-Cookie: =wrenn_link=x\r\nSet-Cookie: \t= wrenn_visit=x\r\nSet-Cookie: __HOST-wrenn_link=x\r\n"
        'Set-Cookie: wrenn_link=x\r\nwrenn-error-code: not_found\r\nClear-Site-Data: "*"\r\n'
        "Keep-Alive: timeout=5\r\nLocation: {}\r\n\r\n"
    )
    places: list[str] = []
    headers = httpx2.Headers()

    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            await read_head(reader)
            writer.write(head.format(places[0]).encode())
            await writer.drain()

    async with program(handler) as port:
        host = host_of(path, port)
        for location, seen in {
            "/next/": "/next/",
            "next": "next",
            "https://example.com/a": "https://example.com/a",
            f"http://localhost:{port}/a?b#c": "/a?b#c",
            f"http://127.0.0.1:{port}": "/",
            "http://127.0.0.1:1/a": "http://127.0.0.1:1/a",
            f"http://{host}/a/": "/a/",
            f"http://{host}//evil.test/": "/.//evil.test/",
        }.items():
            places[:] = [location]
            answer = await platform.api.get("/", headers=headers_of(path, port))
            assert answer.status_code == 302
            headers = answer.headers
            assert headers["location"] == seen
    assert headers.get_list("set-cookie") == ["a=1; Path=/", "b=2; HttpOnly"]
    assert not {"wrenn-error-code", "clear-site-data", "keep-alive"} & set(headers)
    assert len(headers.get_list("date")) == 1
    assert "1970" not in headers["date"]


async def test_events_arrive_as_they_are_sent_and_end_with_their_reader(platform: Platform, path: str):
    ended, go_on = asyncio.Event(), asyncio.Event()

    async def events(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_head(reader)
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\ndata: 1\n\n")
        await go_on.wait()
        writer.write(b"data: 2\n\n")
        await reader.read()  # until the other side ends
        ended.set()

    async with program(events) as port, asyncio.timeout(DEADLINE_S):
        async with platform.api.stream("GET", "/", headers=headers_of(path, port)) as answer:
            lines = answer.aiter_raw()
            assert await anext(lines) == b"data: 1\n\n"
            go_on.set()
            assert await anext(lines) == b"data: 2\n\n"
        await ended.wait()


async def test_a_visitor_who_leaves_before_the_answer_is_noticed(platform: Platform, path: str):
    async with silent_program() as (port, asked, ended), asyncio.timeout(DEADLINE_S):
        visit = asyncio.create_task(platform.api.get("/", headers=headers_of(path, port)))
        await asked.wait()
        visit.cancel()
        await ended.wait()


@pytest.mark.parametrize(
    "more", ["", "Connection: Upgrade\r\nUpgrade: websocket\r\n"], ids=["http", "socket"]
)
async def test_a_visitor_who_sends_another_request_meanwhile_is_disconnected(
    platform: Platform, path: str, more: str
):
    """Otherwise the first visit would not notice that its client has gone, and would hold its connections."""
    async with silent_program() as (port, asked, ended), asyncio.timeout(DEADLINE_S):
        reader, writer = await open_raw(platform)
        head = f"GET / HTTP/1.1\r\nHost: {host_of(path, port)}\r\nX-API-Key: {platform.key.reveal()}\r\n"
        writer.write(f"{head}\r\n".encode())
        await asked.wait()
        writer.write(f"{head}{more}\r\n".encode())
        with suppress(ConnectionError):
            assert await reader.read() == b""
        await ended.wait()
        writer.close()


async def never_ending(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Answers with a head, and never ends the body."""
    await read_head(reader)
    writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nx\r\n")
    await reader.read()


async def test_a_visit_waits_for_a_connection_to_its_guest_for_a_limited_time(
    platform: Platform, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(guest_ports, "CONNECTIONS", 1)
    monkeypatch.setattr(guest_ports, "_WAIT_S", 0.2)
    path = await platform.create()
    async with program(never_ending) as port, asyncio.timeout(DEADLINE_S):
        async with platform.api.stream("GET", "/", headers=headers_of(path, port)) as first:
            assert first.status_code == 200
            refused(await platform.api.get("/", headers=headers_of(path, port)), 503, "host_unavailable")


def socket(platform: Platform, path: str, port: int, **options: object) -> connect:
    """A WebSocket to a port; the host is named by headers, so that the name need not be resolved."""
    headers = {
        "X-API-Key": platform.key.reveal(),
        "X-Wrenn-Sandbox": path.rpartition("/")[2],
        "X-Wrenn-Port": str(port),
    }
    url = platform.url.replace("http:", "ws:") + "/socket?a=1"
    return connect(url, additional_headers=headers, proxy=None, **options)  # type: ignore[arg-type]


async def test_messages_pass_both_ways(platform: Platform, path: str):
    async with socket_program(echo_messages, subprotocols=["b", "c"], max_size=None) as port:
        async with socket(platform, path, port, subprotocols=["a", "b"]) as ws, asyncio.timeout(DEADLINE_S):
            assert ws.subprotocol == "b"
            for message in ["text", "", b"", b"\0\xff", "é" * 1000, bytes(3 * MIB // 4)]:
                await ws.send(message)
                assert await ws.recv() == message


async def test_the_end_of_a_websocket_is_reported_with_its_code(platform: Platform, path: str):
    codes: asyncio.Queue[int | None] = asyncio.Queue()

    async def handler(ws: websockets.ServerConnection) -> None:
        try:
            async for message in ws:
                await ws.close(int(message), "reason")
        except websockets.ConnectionClosed:
            pass
        await codes.put(ws.close_code)

    async with socket_program(handler) as port, asyncio.timeout(DEADLINE_S):
        for code in [1000, 1001, 3001, 4999]:
            async with socket(platform, path, port) as ws:
                await ws.send(str(code))
                with pytest.raises(websockets.ConnectionClosed):
                    await ws.recv()
                assert (ws.close_code, ws.close_reason) == (code, "reason")
            assert await codes.get() == code
            async with socket(platform, path, port) as ws:
                await ws.close(code, "mine")
            assert await codes.get() == code
        # One that goes without a word.
        ws = await socket(platform, path, port)
        ws.transport.abort()
        assert await codes.get() == 1001


async def test_a_refused_handshake_is_the_programs_own(platform: Platform, path: str):
    answer = b"HTTP/1.1 403 Forbidden\r\nX-Why: because\r\nContent-Length: 0\r\n\r\n"
    async with program(answering(answer)) as port:
        with pytest.raises(websockets.InvalidStatus) as caught:
            await socket(platform, path, port)
    assert caught.value.response.status_code == 403
    assert caught.value.response.headers["X-Why"] == "because"


async def test_who_may_visit(platform: Platform, subtests: pytest.Subtests):
    stranger = (await platform.other_team()).reveal()
    async with (
        program(answering(OK)) as public,
        program(answering(OK)) as private,
        client(platform.url, None) as http,
    ):
        path = await platform.create(public_ports=[public, public])
        assert (await platform.api.get(path)).json()["public_ports"] == [public]
        nobody = "cl-" + "0" * 25
        cases: list[tuple[str, int, dict[str, str], int, str]] = [
            (path, public, {}, 200, ""),
            (path, private, {}, 401, "unauthorized"),
            (nobody, public, {}, 401, "unauthorized"),
            (path, private, {"X-API-Key": "nonsense"}, 401, "unauthorized"),
            (path, public, {"X-API-Key": "wrn_" + "0" * 32}, 401, "unauthorized"),
            (path, private, {"X-API-Key": stranger}, 404, "not_found"),
            (path, public, {"X-API-Key": stranger}, 404, "not_found"),
            (nobody, public, {"X-API-Key": stranger}, 404, "not_found"),
            (path, 0, {}, 400, "invalid_request"),
            (path, 65536, {}, 400, "invalid_request"),
            ("cl-short", public, {}, 400, "invalid_request"),
            ("cl-" + "z" * 25, public, {}, 400, "invalid_request"),
        ]
        for where, port, headers, status, code in cases:
            with subtests.test(f"{where[-8:]} {port} {list(headers)} {status}"):
                answer = await http.get("/", headers=headers_of(where, port, **headers))
                if code:
                    refused(answer, status, code)
                else:
                    assert answer.status_code == status


async def test_a_link_opens_a_port_until_it_expires(platform: Platform, path: str):
    seen: list[list[bytes]] = []
    async with program(answering(OK, seen)) as port, client(platform.url, None) as http:
        made = await platform.api.post(f"{path}/ports/{port}/link", json={"expires_in_sec": 60})
        assert made.status_code == 201, made.text
        url = httpx2.URL(made.json()["url"])
        assert url.host == f"{port}-{path.rpartition('/')[2]}.localhost"
        assert url.port == httpx2.URL(platform.url).port
        token = url.params["wrenn_link"]
        target = f"/a/?x=1&wrenn_link={token}&y=2"
        # A program is let through at once, without the token.
        assert (await http.get(target, headers=headers_of(path, port))).text == "ok"
        assert seen[-1][0] == b"GET /a/?x=1&y=2 HTTP/1.1"
        # A browser gets a cookie and the clean URL.
        answer = await http.get(target, headers=headers_of(path, port, Accept="text/html,*/*"))
        assert (answer.status_code, answer.headers["location"]) == (303, "/a/?x=1&y=2")
        cookie = answer.headers["set-cookie"]
        assert cookie.startswith(f"wrenn_link={token}; Max-Age=")
        assert {"HttpOnly", "Path=/", "SameSite=Lax"} <= {part.strip() for part in cookie.split(";")}
        assert "domain" not in cookie.lower()
        held = {"Cookie": f"wrenn_link={token}"}
        assert (await http.get("/b", headers=headers_of(path, port, **held))).text == "ok"
        assert not any(b"wrenn_link" in line for head in seen for line in head)
        # Pages of neighbours cannot use the cookie.
        for foreign in [
            {"Origin": "http://1-cl-x.sandboxes.test"},
            {"Origin": "null"},
            {"Sec-Fetch-Site": "same-site", "Sec-Fetch-Mode": "no-cors"},
        ]:
            answer = await http.get("/b", headers=headers_of(path, port, **held, **foreign))
            refused(answer, 401, "unauthorized")
        own = {"Origin": f"http://{host_of(path, port)}", "Sec-Fetch-Site": "same-origin"}
        assert (await http.get("/b", headers=headers_of(path, port, **held, **own))).text == "ok"
        # It is good for this port of this sandbox only, and not for the platform.
        other = await platform.create()
        for where, number in [(other, port), (path, port + 1)]:
            refused(await http.get(target, headers=headers_of(where, number)), 401, "unauthorized")
        expires, mac = token.split(".")
        http.cookies.clear()
        for bad in [f"{int(expires) + 1}.{mac}", f"{expires}.{mac[:-1]}", f"{expires}.{'A' * 43}", "", "."]:
            answer = await http.get(f"/?wrenn_link={bad}", headers=headers_of(path, port))
            refused(answer, 401, "unauthorized")
    assert refused(
        await platform.api.post(f"{path}/ports/80/link", json={"expires_in_sec": 0}), 400, "invalid_request"
    )
    for number in ["0", "70000", "49983", "x"]:
        refused(await platform.api.post(f"{path}/ports/{number}/link", json={}), 400, "invalid_request")


@pytest.mark.parametrize("shown", ["link", "cookie"])
async def test_what_was_opened_by_a_link_ends_when_it_expires(
    platform: Platform, path: str, monkeypatch: pytest.MonkeyPatch, shown: str
):
    def one(*_: object) -> int:
        return 1

    monkeypatch.setattr(LinkSigner, "seconds_left", one)
    async with socket_program(echo_messages) as port, asyncio.timeout(DEADLINE_S):
        server = httpx2.URL(platform.url)
        url = f"ws://{host_of(path, port)}:{server.port}/" + ("?wrenn_link=x" if shown == "link" else "")
        headers = {"Cookie": "wrenn_link=x"} if shown == "cookie" else {}
        async with connect(
            url, additional_headers=headers, proxy=None, host=server.host, port=server.port
        ) as ws:
            await ws.send("hello")
            await ws.recv()
            with pytest.raises(websockets.ConnectionClosed):
                await ws.recv()
            assert ws.close_code == 1008


async def test_a_port_without_a_program_says_so(platform: Platform, path: str):
    async with program(answering(OK)) as port:
        pass
    message = refused(await platform.api.get("/", headers=headers_of(path, port)), 502, "port_closed")
    assert f"port {port}" in message
    page = await platform.api.get("/", headers=headers_of(path, port, Accept="text/html"))
    assert page.status_code == 502
    assert page.headers["content-type"] == "text/html; charset=utf-8"
    assert f"Nothing listens on port {port}" in page.text
    with pytest.raises(websockets.InvalidStatus) as caught:
        await socket(platform, path, port)
    assert json.loads(caught.value.response.body)["error"]["code"] == "port_closed"


@pytest.mark.asyncio(loop_scope="function")
async def test_a_silent_host_is_reported(own_platform: Platform, database_url: str):
    platform, path = own_platform, await own_platform.create()
    async with program(answering(OK)) as port, asyncio.timeout(DEADLINE_S):
        await run_sql(database_url, "UPDATE hosts SET address = 'https://127.0.0.1:9'")
        refused(await platform.api.get("/", headers=headers_of(path, port)), 503, "host_unavailable")
        page = await platform.api.get("/", headers=headers_of(path, port, Accept="text/html"))
        assert (page.status_code, page.headers["retry-after"]) == (503, "1")
        with pytest.raises(websockets.InvalidStatus) as caught:
            await socket(platform, path, port)
        assert caught.value.response.status_code == 503


async def test_pause_resume_and_delete_are_seen_at_once(platform: Platform, path: str):
    async with program(answering(OK)) as port, asyncio.timeout(DEADLINE_S):
        there = headers_of(path, port)
        for _ in range(3):
            assert (await platform.api.get("/", headers=there)).text == "ok"
            assert (await platform.api.post(f"{path}/pause")).status_code == 200
            assert "paused" in refused(await platform.api.get("/", headers=there), 409, "invalid_state")
            assert (await platform.api.post(f"{path}/resume")).status_code == 200
        assert (await platform.api.get("/", headers=there)).text == "ok"
        assert (await platform.api.delete(path)).status_code == 204
        refused(await platform.api.get("/", headers=there), 409, "invalid_state")


async def test_another_replica_sees_them_too(platform: Platform, path: str):
    async with (
        running_platform(platform.settings, platform.host, platform.key) as second_platform,
        program(answering(OK)) as port,
        asyncio.timeout(DEADLINE_S),
    ):
        there = headers_of(path, port)
        assert (await second_platform.api.get("/", headers=there)).text == "ok"
        assert (await platform.api.post(f"{path}/pause")).status_code == 200
        refused(await second_platform.api.get("/", headers=there), 409, "invalid_state")
        assert (await platform.api.post(f"{path}/resume")).status_code == 200
        assert (await second_platform.api.get("/", headers=there)).text == "ok"


async def test_a_visit_resumes_a_sandbox_that_wants_it(platform: Platform):
    path = await platform.create(auto_resume=True)
    async with program(echo_body) as port, asyncio.timeout(DEADLINE_S):
        assert (await platform.api.post(f"{path}/pause")).status_code == 200
        there = headers_of(path, port)
        async with client(platform.url, None) as http:
            refused(await http.get("/", headers=there), 401, "unauthorized")
        assert (await platform.api.get(path)).json()["status"] == "paused"
        assert (await platform.api.post("/", content=b"body", headers=there)).text == "body"
        assert (await platform.api.get(path)).json()["status"] == "running"


async def test_a_pause_ends_what_is_open(platform: Platform, path: str):
    async def events(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_head(reader)
        writer.write(b"HTTP/1.1 200 OK\r\n\r\ndata")
        await reader.read()

    async with (
        program(events) as port,
        socket_program(echo_messages) as socket_port,
        asyncio.timeout(DEADLINE_S),
        socket(platform, path, socket_port) as ws,
        platform.api.stream("GET", "/", headers=headers_of(path, port)) as answer,
    ):
        body = answer.aiter_raw()
        assert await anext(body) == b"data"
        assert (await platform.api.post(f"{path}/pause")).status_code == 200
        with pytest.raises(httpx2.TransportError):
            await anext(body)
        with pytest.raises(websockets.ConnectionClosed):
            await ws.recv()
        assert ws.close_code == 1012


async def test_a_key_that_is_removed_opens_nothing(platform: Platform, path: str):
    async with program(answering(OK)) as port, asyncio.timeout(DEADLINE_S):
        there = headers_of(path, port)
        assert (await platform.api.get("/", headers=there)).text == "ok"
        removed = f"DELETE FROM team_api_keys WHERE key_hash = '{platform.key.sha256_hex()}'"
        await run_sql(str(platform.settings.database_url), removed)
        # A hint needs a moment; what is remembered lasts two seconds without one.
        async with asyncio.timeout(1.5):
            while (answer := await platform.api.get("/", headers=there)).status_code == 200:
                await asyncio.sleep(0)
        refused(answer, 401, "unauthorized")


async def test_public_ports_are_changed_for_all_replicas(platform: Platform, path: str):
    async with (
        running_platform(platform.settings, platform.host, platform.key) as second_platform,
        program(answering(OK)) as port,
        client(platform.url, None) as first,
        client(second_platform.url, None) as second,
    ):
        there = headers_of(path, port)
        for ports, status in (([], 401), ([port, 1, port], 200), ([1], 401)):
            answer = await platform.api.patch(path, json={"public_ports": ports})
            assert answer.json()["public_ports"] == sorted(set(ports))
            # Each replica, also the one that made the change, forgets what it knew at the hint.
            async with asyncio.timeout(DEADLINE_S):
                for visitor in (first, second):
                    while (await visitor.get("/", headers=there)).status_code != status:
                        await asyncio.sleep(0.02)
        for bad in ([0], [65536], ["80"], list(range(1, 40)), 80):
            refused(await platform.api.patch(path, json={"public_ports": bad}), 400, "invalid_request")
        async with client(platform.url, await platform.other_team()) as stranger:
            refused(await stranger.patch(path, json={"public_ports": [port]}), 404, "not_found")
        log = (await platform.api.get("/v1/audit-logs", params={"action": "set_public_ports"})).json()[
            "items"
        ]
        assert [entry["metadata"]["ports"] for entry in log] == ["1", f"1, {port}"]


async def test_single_ports_become_public_and_private_beside_others(platform: Platform, path: str):
    async def ports(**change: list[int]) -> list[int]:
        answer = await platform.api.patch(path, json=change)
        assert answer.status_code == 200, answer.text
        return answer.json()["public_ports"]

    async with reading(platform.api, types="sandbox") as reader:
        assert await ports(add_public_ports=[9000, 8000]) == [8000, 9000]
        assert await ports(add_public_ports=[8000]) == [8000, 9000]
        assert await ports(remove_public_ports=[8000, 1]) == [9000]
        assert await ports(add_public_ports=[80], remove_public_ports=[9000]) == [80]
        seen = await reader.take(3)
    assert [(kind, event["data"]["public_ports"]) for kind, event in seen] == [
        ("sandbox.updated", ports) for ports in ([8000, 9000], [9000], [80])
    ]
    await ports(public_ports=list(range(1, 33)))
    for bad in (
        {"add_public_ports": [0]},
        {"add_public_ports": [80], "public_ports": []},
        {"add_public_ports": [80], "remove_public_ports": [80]},
        {"add_public_ports": [80]},
    ):
        refused(await platform.api.patch(path, json=bad), 400, "invalid_request")
    assert await ports() == list(range(1, 33))


async def test_of_all_public_ports_no_single_one_is_closed(platform: Platform):
    path = await platform.create(all_ports_public=True)
    for change in ({"remove_public_ports": [80]}, {"add_public_ports": [80]}):
        refused(await platform.api.patch(path, json=change), 409, "invalid_state")
    assert (await platform.api.get(path)).json()["all_ports_public"]
    async with reading(platform.api, types="sandbox") as reader:
        await platform.api.patch(path, json={"public_ports": [443]})
        [(_, event)] = await reader.take(1)
    assert (event["data"]["public_ports"], event["data"]["all_ports_public"]) == ([443], False)
