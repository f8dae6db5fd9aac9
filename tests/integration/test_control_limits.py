"""Limits of requests: how many in a second, how large their heads, how long a head may take."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import replace

import pytest
import uvicorn
import websockets
from starlette.types import Receive, Scope, Send

from wrenn.base.ids import SandboxId
from wrenn.control.fleet import issue_local_token
from wrenn.control.http.buckets import Rate
from wrenn.control.http.rate_limits import RateSettings
from wrenn.control.proxy.open_visits import OpenVisits, VisitLimits
from wrenn.control.settings import Settings
from wrenn.control.wiring import application
from wrenn.relay import HEADER_LIMIT, BoundedHttp
from wrenn.testing.agent_host import AgentHost
from wrenn.testing.server import served

from .conftest import DEADLINE_S, Platform, client, make_team, refused, running_platform
from .guest_programs import OK, answering, program, read_head
from .host_agents import AgentPlayer
from .test_ports import host_of, never_ending, open_raw

ALL = "/v1/sandboxes"
WRONG = "wrn_" + "0" * 31


@pytest.fixture
async def slow(settings: Settings, host: AgentHost, database_url: str) -> AsyncIterator[Platform]:
    """Ten requests with a key, five without; then one more in a hundred seconds. The host registers and sends a heartbeat, which is two more."""
    key = await make_team(database_url, "ada")
    rates = RateSettings(Rate(0.01, 10), Rate(0.01, 7))
    async with running_platform(replace(settings, rates=rates), host, key) as platform:
        yield platform


async def test_a_key_has_its_own_rate_and_one_address_another(slow: Platform):
    stranger = await make_team(slow.settings.database_url or "", "eve")
    async with client(slow.url, stranger) as other, client(slow.url, None) as nobody:
        # The first request with a key is not known to be one, and counts for the address.
        statuses = [(await slow.api.get(ALL)).status_code for _ in range(11)]
        assert statuses == [200] * 10 + [429]
        answer = await slow.api.get(ALL)
        assert "Try again in" in refused(answer, 429, "rate_limited")
        assert 90 <= int(answer.headers["Retry-After"]) <= 100
        assert (await other.get(ALL)).status_code == 200, "another key is not held up"
        for number in range(3):
            # Made-up keys, on paths that need none too, open no buckets.
            headers = {"X-API-Key": f"{WRONG}{number}"}
            assert (await nobody.get("/docs" if number else ALL, headers=headers)).status_code in (200, 401)
        refused(await nobody.get(ALL), 429, "rate_limited")
        refused(await nobody.get(ALL, headers={"X-API-Key": f"{WRONG}1"}), 429, "rate_limited")
        assert (await other.get(ALL)).status_code == 200, "a known key is not held up by its address"
        for _ in range(20):
            assert (await nobody.get("/health")).status_code == 200


@pytest.fixture
async def guarded(settings: Settings, host: AgentHost, database_url: str) -> AsyncIterator[Platform]:
    """Five wrong credentials of an address; then one more in a hundred seconds."""
    key = await make_team(database_url, "ada")
    rates = replace(settings.rates, failures_per_address=Rate(0.01, 5))
    async with running_platform(replace(settings, rates=rates), host, key) as platform:
        yield platform


async def test_invalid_credentials_are_counted_before_the_lookup_for_each_kind_of_login(guarded: Platform):
    async with program(answering(OK)) as port, client(guarded.url, None) as nobody:
        path = await guarded.create()

        async def visit(query: str = "", **headers: str) -> int:
            at = {"Host": f"{port}-{path.rpartition('/')[2]}.localhost", **headers}
            return (await nobody.get(f"/{query}", headers=at)).status_code

        good = {"X-API-Key": guarded.key.reveal()}
        assert await visit(**good) == 200
        wrong = [
            await visit(**{"X-API-Key": WRONG + "1"}),
            await visit(Cookie="wrenn_visit=x.y.z"),
            await visit("?wrenn_link=1.a"),
            (await nobody.get(ALL, headers={"X-API-Key": WRONG + "2"})).status_code,
            (await nobody.get("/v1/events", headers={"X-API-Key": WRONG + "3"})).status_code,
        ]
        assert wrong == [401] * 5
        statuses = {await visit(**{"X-API-Key": f"{WRONG[:-2]}{n:02}"}) for n in range(20)}
        assert statuses == {429}
        refused(await nobody.get(ALL, headers={"X-API-Key": WRONG + "4"}), 429, "rate_limited")
        tunnel = f"{guarded.url.replace('http', 'ws')}{path}/ports/{port}/tunnel"
        for url in (tunnel, f"{guarded.url.replace('http', 'ws')}{path}/exec/stream"):
            with pytest.raises(websockets.InvalidStatus) as raised:
                await websockets.connect(url, additional_headers={"X-API-Key": WRONG + "5"})
            assert raised.value.response.status_code == 429
        # Who is known is not held up by others of the same address, nor is who shows nothing.
        assert [await visit(**good) for _ in range(20)] == [200] * 20
        assert await visit() == 401


async def test_wrong_tokens_and_signatures_of_e2b_clients_are_counted_too(guarded: Platform):
    path = await guarded.create()
    sandbox_id = SandboxId.parse(path.rpartition("/")[2])
    token = guarded.control.services.access_tokens.of(sandbox_id).reveal()
    routed = {"E2b-Sandbox-Id": sandbox_id.without_prefix, "E2b-Sandbox-Port": "49983"}

    async def call(query: str = "", **headers: str) -> int:
        return (await nobody.get(f"/files?path=f{query}", headers=headers)).status_code

    async with client(guarded.url, None) as nobody:
        wrong = [
            await call(**routed, **{"X-Access-Token": "1"}),
            await call(**routed, **{"X-Access-Token": token[::-1]}),
            await call("&signature=v1_1", **routed),
            # Without a sandbox all tokens would have to be tried.
            await call("&signature=v1_2"),
            await call("&signature=v1_3"),
        ]
        assert wrong == [401] * 5
        assert {await call(f"&signature=v1_x{n}") for n in range(20)} == {429}
        assert {await call(f"&signature=v1_x{n}", **routed) for n in range(20)} == {429}
        assert {await call(**routed, **{"X-Access-Token": f"x{n}"}) for n in range(20)} == {429}
        # Who has the token, or shows nothing, is not held up.
        assert await call(**routed, **{"X-Access-Token": token}) == 404
        assert await call(**routed) == 401
        assert (await nobody.get("/health", headers=routed)).status_code == 204


async def test_wrong_host_tokens_are_counted_like_other_credentials(guarded: Platform):
    _, token = await issue_local_token(str(guarded.settings.database_url), name="here")
    player = AgentPlayer(guarded.url)
    assert (await player.register(token.reveal())).status_code == 201
    assert (await player.heartbeat()).status_code == 204
    statuses = [(await player.heartbeat(token=f"wrong{number}")).status_code for number in range(7)]
    assert statuses == [401] * 5 + [429] * 2
    assert (await player.heartbeat()).status_code == 204, "one that is known is not held up"
    async with client(guarded.url, None) as nobody:
        sent = await nobody.post(f"/v1/hosts/{player.host_id}/metrics", headers={"X-Host-Token": "wrong7"})
        refused(sent, 429, "rate_limited")


async def raw(url: str, *parts: bytes) -> bytes:
    """The answer to these bytes, until the server closes the connection."""
    host, _, port = url.removeprefix("http://").partition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    try:
        for part in parts:
            writer.write(part)
            await writer.drain()
        async with asyncio.timeout(DEADLINE_S):
            return await reader.read(65536)
    except ConnectionError:
        return b""
    finally:
        writer.close()


BEGIN = b"GET /health HTTP/1.1\r\nHost: x\r\n"
PIECE = b"y" * 8192


async def test_a_head_of_any_usual_size_is_read(platform: Platform):
    many = b"".join(b"X-%d: 1\r\n" % n for n in range(HEADER_LIMIT - 1))
    large = b"X-Large: " + PIECE * 6 + b"\r\n"
    for headers in (many, large):
        assert (await raw(platform.url, BEGIN + headers + b"\r\n")).startswith(b"HTTP/1.1 200")
    # A body is no head, however large and however it comes.
    body = b"{" + b" " * 200_000 + b"}"
    answer = await platform.api.post(ALL, content=body, headers={"Content-Type": "application/json"})
    assert answer.status_code == 201

    async def pieces() -> AsyncIterator[bytes]:
        for _ in range(50):
            yield b" " * 4000
        yield b"{}"

    answer = await platform.api.post(ALL, content=pieces(), headers={"Content-Type": "application/json"})
    assert answer.status_code == 201


@pytest.mark.parametrize(
    "parts",
    [
        pytest.param([b"".join(b"X-%d: 1\r\n" % n for n in range(200)), b"\r\n"], id="many headers"),
        pytest.param([b"X-Large: ", *[PIECE] * 10, b"\r\n\r\n"], id="a large header"),
        pytest.param([b"X-Endless: ", *[PIECE] * 100], id="a header without an end"),
        pytest.param(
            [b"".join(b"X-%d: %s\r\n" % (n, PIECE) for n in range(12)), b"\r\n"], id="large together"
        ),
    ],
)
async def test_a_head_above_its_limits_is_refused_before_it_is_whole(platform: Platform, parts: list[bytes]):
    answer = await raw(platform.url, BEGIN, *parts)
    # The client may be cut off while it still writes.
    assert answer == b"" or answer.startswith(b"HTTP/1.1 431"), answer
    assert (await platform.api.get(ALL)).status_code == 200


async def test_an_endless_request_line_and_endless_trailers_are_cut(platform: Platform):
    answer = await raw(platform.url, b"GET /", *[PIECE] * 100)
    assert answer == b"" or answer.startswith((b"HTTP/1.1 431", b"HTTP/1.1 400"))
    head = f"POST {ALL} HTTP/1.1\r\nHost: x\r\nX-API-Key: {platform.key.reveal()}\r\n"
    chunked = (
        head.encode()
        + b"Content-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n"
    )
    answer = await raw(platform.url, chunked, b"X-Trailer: ", *[PIECE] * 100)
    assert b"201" not in answer.split(b"\r\n")[0]


async def echo_headers(scope: Scope, receive: Receive, send: Send) -> None:
    """Answers with the headers of the request, read when all of it has arrived."""
    while (await receive()).get("more_body"):
        pass
    shown = b"".join(b"%s=%s;" % header for header in scope["headers"])
    await send({"type": "http.response.start", "status": 200, "headers": [(b"connection", b"close")]})
    await send({"type": "http.response.body", "body": shown})


async def test_trailers_are_no_headers():
    """A proxy appends its header about the client, and forwards the client's trailers: these must not come after it."""
    config = uvicorn.Config(
        echo_headers, host="127.0.0.1", port=0, http=BoundedHttp, lifespan="off", log_config=None
    )
    async with served(config) as port:
        answer = await raw(
            f"http://127.0.0.1:{port}",
            b"POST / HTTP/1.1\r\nHost: x\r\nX-Forwarded-For: 198.51.100.7\r\nTransfer-Encoding: chunked\r\n\r\n"
            b"2\r\n{}\r\n0\r\nX-Forwarded-For: 203.0.113.99\r\n\r\n",
        )
    assert b"x-forwarded-for=198.51.100.7;" in answer
    assert b"203.0.113.99" not in answer


async def test_strangers_do_not_use_up_the_visits_of_a_sandbox(
    settings: Settings, host: AgentHost, database_url: str, monkeypatch: pytest.MonkeyPatch
):
    limits = VisitLimits(of_strangers_to_sandbox=2, of_address=3, of_sandbox=4)
    monkeypatch.setattr(application, "OpenVisits", lambda: OpenVisits(limits))
    key = await make_team(database_url, "ada")
    async with (
        running_platform(settings, host, key) as platform,
        program(never_ending) as port,
        AsyncExitStack() as stack,
    ):
        first, second = [await platform.create(public_ports=[port]) for _ in range(2)]

        async def visit(path: str, *, by_owner: bool = False) -> bytes:
            """Begin a visit that stays open; return the status line."""
            reader, writer = await open_raw(platform)
            # It keeps the writer: asyncio ends a connection that nobody refers to.
            stack.callback(abort, writer)
            shown = f"X-API-Key: {key.reveal()}\r\n" if by_owner else ""
            writer.write(f"GET / HTTP/1.1\r\nHost: {host_of(path, port)}\r\n{shown}\r\n".encode())
            async with asyncio.timeout(DEADLINE_S):
                return (await read_head(reader))[0].partition(b" ")[2][:3]

        assert [await visit(first) for _ in range(3)] == [b"200", b"200", b"429"]
        assert [await visit(second) for _ in range(2)] == [b"200", b"429"], "three from this address"
        assert [await visit(first, by_owner=True) for _ in range(3)] == [b"200", b"200", b"429"]
        assert await visit(second, by_owner=True) == b"200"


def abort(writer: asyncio.StreamWriter) -> None:
    writer.transport.abort()


async def test_searches_for_signed_urls_are_limited_also_if_foreign_pages_cause_them(
    settings: Settings, host: AgentHost, database_url: str
):
    """A page cannot have its reader's browser search without end, nor use up the guesses of its reader."""
    key = await make_team(database_url, "ada")
    rates = RateSettings(None, None, failures_per_address=Rate(0.01, 3))
    async with (
        running_platform(replace(settings, rates=rates), host, key) as platform,
        client(platform.url, None) as http,
    ):

        async def search(number: int, headers: dict[str, str]) -> int:
            query = {"path": "/a", "signature": f"v1_{number}"}
            return (await http.get("/files", params=query, headers=headers)).status_code

        foreign = {"Origin": "https://page.example"}
        assert [await search(number, foreign) for number in range(4)] == [401, 401, 401, 429]
        assert [await search(number, {}) for number in range(4, 8)] == [401, 401, 401, 429]


async def test_a_page_whose_name_resolves_to_this_machine_gets_no_account(platform: Platform):
    async with client(platform.url, None) as http:

        async def sign_up(host: str) -> int:
            body = {
                "email": f"a{host.encode().hex()}@example.com",
                "password": "a long pass phrase 17",
                "name": "A",
            }
            headers = {"Host": host, "Origin": f"http://{host}"}
            return (await http.post("/v1/auth/signup", json=body, headers=headers)).status_code

        for host in [
            "evil.example:8000",
            "localhost.evil.example",
            "127.0.0.1.evil.example",
            "10.0.0.1",
            "x",
        ]:
            assert await sign_up(host) == 403, host
        for host in ["localhost:8000", "127.0.0.1:8000", "[::1]:8000", "a.localhost"]:
            assert await sign_up(host) == 201, host


class Impatient(BoundedHttp):
    """Waits for a head no longer than a test can."""

    head_timeout_s = 0.3


async def slow_echo(_scope: Scope, receive: Receive, send: Send) -> None:
    """Answers with the body, longer after the head than a head may take."""
    await asyncio.sleep(3 * Impatient.head_timeout_s)
    body = (await receive())["body"]
    await send({"type": "http.response.start", "status": 200, "headers": [(b"connection", b"close")]})
    await send({"type": "http.response.body", "body": body})


async def test_a_head_that_does_not_come_is_not_waited_for():
    config = uvicorn.Config(
        slow_echo, host="127.0.0.1", port=0, http=Impatient, lifespan="off", log_config=None
    )
    async with served(config) as port:
        url = f"http://127.0.0.1:{port}"
        for begin in (b"", b"\r\n", BEGIN):
            assert await raw(url, begin) == b""
        # An answer, and the body of a request, may take longer.
        answer = await raw(url, b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 4\r\n\r\n", b"body")
        assert b"200 OK" in answer
        assert b"body" in answer


async def test_every_body_has_a_limit(platform: Platform):
    """Of all endpoints; uploads have larger ones of their own."""
    big = b" " * (1024 * 1024 + 1)
    for path, methods in (await platform.api.get("/openapi.json")).json()["paths"].items():
        if path.endswith(("/files/write", "/files/stream/write", "/files/tar/write", "/manifest")):
            continue
        if path in ("/v1/builds", "/v1/admin/builds") or path.startswith("/v1/store/"):
            continue
        for method in methods:
            answer = await platform.api.request(method, path.replace("{", "").replace("}", ""), content=big)
            refused(answer, 413, "too_large")
