"""What a visitor's request is for, and what of it passes: the pure part of the proxy."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime

import pytest

from wrenn.base.errors import InvalidRequest, NotFound, WrennError
from wrenn.base.ids import SandboxId
from wrenn.control.http.domain import domain_of
from wrenn.control.proxy.links import LinkSigner
from wrenn.control.proxy.lookup_cache import LookupCache
from wrenn.control.proxy.port_target import PortTarget, e2b_address_of, port_target_of
from wrenn.control.proxy.request_head import own_path, response_headers, visit_of
from wrenn.relay import end_to_end

BARE = "0" * 24 + "1"
ID = f"cl-{BARE}"


def scope(**headers: str) -> dict[str, object]:
    raw = [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()]
    return {"type": "http", "method": "GET", "path": "/", "raw_path": b"/", "headers": raw}


@pytest.mark.parametrize(
    "host",
    [
        f"8000-{ID}.example.com",
        f"8000-{ID.upper()}.Example.com:443",
        f"08000-{ID}.localhost:8000",
        f"8000-{ID}.",
    ],
)
def test_a_host_names_port_and_sandbox(host: str) -> None:
    assert port_target_of(scope(host=host)) == PortTarget(SandboxId.parse(ID), 8000)


@pytest.mark.parametrize(
    "host", ["example.com", ID, f"8000-{ID}", f"x-{ID}.a", f"-{ID}.a", "8000-x.a", "", "8000"]
)
def test_other_hosts_are_the_apis(host: str) -> None:
    assert port_target_of(scope(host=host)) is None


@pytest.mark.parametrize(
    "host",
    [
        f"0-{ID}.a",
        f"65536-{ID}.a",
        f"{'9' * 99}-{ID}.a",
        "80-cl-x.a",
        "80-cl-" + "z" * 25 + ".a",
    ],
)
def test_a_port_that_cannot_be_is_refused(host: str) -> None:
    with pytest.raises(InvalidRequest):
        port_target_of(scope(host=host))


@pytest.mark.parametrize(
    ("headers", "port", "by_headers"),
    [
        ({"host": f"8000-{BARE}.a"}, 8000, False),
        ({"host": f"8000-{BARE.upper()}.a"}, 8000, False),
        ({"host": f"49983-{BARE}.a"}, 49983, False),
        ({"host": f"49983-{ID}.a"}, 49983, False),
        ({"host": f"8000-{ID}.a", "e2b_sandbox_id": "x"}, 8000, False),
        ({"host": "a", "e2b_sandbox_id": BARE, "e2b_sandbox_port": "80"}, 80, True),
        ({"host": "a", "e2b_sandbox_id": ID, "e2b_sandbox_port": "49983"}, 49983, True),
        ({"host": "a", "e2b_sandbox_id": f"{BARE}-6532622b", "e2b_sandbox_port": "80"}, 80, True),
        ({"host": f"8000-{BARE}.a", "e2b_sandbox_id": "x", "e2b_sandbox_port": "9"}, 8000, False),
    ],
)
def test_e2b_clients_write_ids_without_prefix(headers: dict[str, str], port: int, by_headers: bool) -> None:
    found = port_target_of(scope(**headers))
    assert found == PortTarget(SandboxId.parse(ID), port, by_headers=by_headers, is_e2b=True)


@pytest.mark.parametrize(
    ("headers", "error"),
    [
        ({"e2b_sandbox_id": BARE}, InvalidRequest),
        ({"e2b_sandbox_port": "80"}, InvalidRequest),
        ({"e2b_sandbox_id": BARE, "e2b_sandbox_port": "x"}, InvalidRequest),
        ({"e2b_sandbox_id": BARE, "e2b_sandbox_port": "65536"}, InvalidRequest),
        ({"e2b_sandbox_id": "../x", "e2b_sandbox_port": "80"}, InvalidRequest),
        ({"e2b_sandbox_id": "", "e2b_sandbox_port": "80"}, InvalidRequest),
        ({"e2b_sandbox_id": "z" * 25, "e2b_sandbox_port": "80"}, NotFound),
        ({"e2b_sandbox_id": "nosuchsandbox", "e2b_sandbox_port": "80"}, NotFound),
    ],
)
def test_an_e2b_client_learns_what_is_wrong_with_its_address(
    headers: dict[str, str], error: type[WrennError]
) -> None:
    with pytest.raises(error):
        port_target_of(scope(host="a", **headers))
    assert e2b_address_of(scope(host="a", **headers)) is not None


def test_two_ids_of_one_request_are_refused() -> None:
    doubled = scope(host="a", e2b_sandbox_id=BARE, e2b_sandbox_port="80")
    doubled["headers"] = [*doubled["headers"], (b"e2b-sandbox-id", b"x")]  # type: ignore[misc]
    with pytest.raises(InvalidRequest):
        port_target_of(doubled)


def test_headers_name_a_port_only_together() -> None:
    named = {"host": "a", "x_wrenn_sandbox": ID, "x_wrenn_port": "80"}
    assert port_target_of(scope(**named)) == PortTarget(SandboxId.parse(ID), 80, by_headers=True)
    for missing in ("x_wrenn_sandbox", "x_wrenn_port"):
        with pytest.raises(InvalidRequest):
            port_target_of(scope(**{k: v for k, v in named.items() if k != missing}))


@pytest.mark.parametrize(
    ("scheme", "cookie", "link", "session"),
    [
        ("http", "wrenn_link=a; wrenn_visit=b", b"a", b"b"),
        ("https", "__Host-wrenn_link=a; wrenn_link=x", b"a", b""),
        ("wss", "__Host-wrenn_link=a", b"a", b""),
        ("http", "wrenn_link=a; wrenn_link=x; wrenn_visit=b", b"", b"b"),
        ("http", "wrenn_visit=b; wrenn_visit=b", b"", b""),
        ("http", "=wrenn_link=a", b"", b""),
    ],
)
def test_of_two_cookies_of_one_name_neither_counts(
    scheme: str, cookie: str, link: bytes, session: bytes
) -> None:
    visit = visit_of({**scope(cookie=cookie), "scheme": scheme, "query_string": b""})
    assert (visit.cookie, visit.session) == (link, session)


@pytest.mark.parametrize("frame", ["iframe", "frame", "embed", "object"])
def test_a_neighbour_that_frames_a_port_uses_no_cookie_of_its_reader(frame: str) -> None:
    for site, is_foreign in {"same-site": True, "cross-site": True, "same-origin": False}.items():
        headers = {"sec_fetch_site": site, "sec_fetch_mode": "navigate", "sec_fetch_dest": frame}
        visit = visit_of({**scope(**headers), "scheme": "http", "query_string": b""})
        assert visit.is_foreign is is_foreign


def test_only_its_own_pages_frame_a_port_that_is_not_public() -> None:
    target = PortTarget(SandboxId.parse(ID), 80)
    own = [(b"content-security-policy", b"default-src 'self'")]
    private = response_headers(own, scope(host="a"), target, is_public=False)
    assert private == [(b"content-security-policy", b"frame-ancestors 'self'"), *own]
    assert response_headers(own, scope(host="a"), target, is_public=True) == own


def test_a_port_named_by_headers_sets_no_cookie_and_cannot_answer_as_the_platform() -> None:
    target = PortTarget(SandboxId.parse(ID), 80, by_headers=True)
    own = [(b"set-cookie", b"a=1"), (b"x-wrenn-source", b"platform"), (b"x-own", b"1")]
    answered = response_headers(own, scope(host="a"), target, is_public=True)
    assert [value for name, value in answered if name == b"x-wrenn-source"] == [b"sandbox"]
    assert (b"x-own", b"1") in answered
    assert not [value for name, value in answered if name == b"set-cookie"]


def test_what_belongs_to_one_connection_stays_behind_but_not_what_frames_a_message() -> None:
    headers = [
        (b"Connection", b"close, X-Mine, Content-Length, Host, Cookie"),
        (b"Keep-Alive", b"1"),
        (b"X-Mine", b"1"),
        (b"Content-Length", b"3"),
        (b"Host", b"a"),
        (b"Cookie", b"b"),
        (b"TE", b"trailers"),
        (b"X-Other", b"2"),
    ]
    assert end_to_end(headers) == [
        (b"content-length", b"3"),
        (b"host", b"a"),
        (b"cookie", b"b"),
        (b"x-other", b"2"),
    ]


@pytest.mark.parametrize("path", [b"//evil.test/", b"/\\evil.test", b"///"])
def test_a_path_is_never_another_host(path: bytes) -> None:
    assert own_path(path) == b"/." + path
    assert own_path(b"/a//b") == b"/a//b"


@pytest.mark.parametrize(
    ("setting", "host", "domain"),
    [
        ("", "127.0.0.1:8000", "localhost:8000"),
        ("", "[::1]:8000", "localhost:8000"),
        ("", "localhost", "localhost"),
        ("", "api.example.com", "api.example.com"),
        ("", "", "localhost"),
        ("", "a:b:c", "localhost"),
        ("sandboxes.example.com", "127.0.0.1", "sandboxes.example.com"),
    ],
)
def test_the_domain_follows_the_apis_own_name(setting: str, host: str, domain: str) -> None:
    assert domain_of(setting, host) == domain


class Clock:
    def __init__(self) -> None:
        self.time = 1000.0

    def now(self) -> datetime:
        return datetime.fromtimestamp(self.time, UTC)

    def monotonic(self) -> float:
        return self.time


def test_a_token_opens_one_port_until_its_moment() -> None:
    clock, sandbox = Clock(), SandboxId.parse(ID)
    signer = LinkSigner(b"s" * 32, clock)
    token = signer.sign(sandbox, 80, expires_at=1060).encode()
    assert signer.seconds_left(token, sandbox, 80) == 60
    assert signer.seconds_left(token, sandbox, 81) == 0
    assert signer.seconds_left(token, SandboxId.new(), 80) == 0
    assert LinkSigner(b"t" * 32, clock).seconds_left(token, sandbox, 80) == 0
    for bad in (b"", b"1060", token[:-1], token + b"A", b"0" + token, b"9999" + token[4:], token.upper()):
        assert signer.seconds_left(bad, sandbox, 80) == 0
    clock.time = 1060
    assert signer.seconds_left(token, sandbox, 80) == 0


async def test_a_lookup_is_cached_for_a_moment_and_dropped_on_a_notification() -> None:
    clock = Clock()
    answers = iter(range(100))
    go_on = asyncio.Event()

    async def look(_key: str) -> int:
        value = next(answers)
        await go_on.wait()
        return value

    recent = LookupCache[str, int](look, clock)
    both = [asyncio.create_task(recent.get("a")) for _ in range(2)]
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    # Forgotten while it is looked for: who asks now gets a newer answer, and the older one is not kept.
    recent.forget_all()
    later = asyncio.create_task(recent.get("a"))
    await asyncio.sleep(0)
    go_on.set()
    assert [await task for task in both] == [0, 0]
    assert await later == 1
    assert await recent.get("a") == 1
    clock.time += 1.9
    assert await recent.get("a") == 1
    clock.time += 0.2
    assert await recent.get("a") == 2
    recent.forget("a")
    assert await recent.get("a") == 3


async def test_errors_and_uncacheable_results_are_not_cached() -> None:
    looks = 0

    async def look(key: str) -> int:
        nonlocal looks
        looks += 1
        if key == "bad":
            raise InvalidRequest("no")
        return -1

    recent = LookupCache[str, int](look, Clock(), keep=lambda value: value > 0)
    for _ in range(2):
        with pytest.raises(InvalidRequest):
            await recent.get("bad")
        assert await recent.get("negative") == -1
    assert looks == 4
