"""Two replicas behind Caddy, configured as in `deploy/caddy`: TLS, the API, WebSockets, ports by wildcard names.

Needs Debian's Caddy. Costs about 10 s.
"""

from __future__ import annotations

import asyncio
import json
import os
import ssl
import subprocess
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import httpx2
import pytest
import pytest_asyncio
from websockets.asyncio.client import connect

from tests.fleet.kit import write_certificate
from wrenn.control.settings import Settings
from wrenn.testing.agent_host import agent_host
from wrenn.testing.server import free_port

from .conftest import DEADLINE_S, Platform, environment_of, make_team, own_database, running_platform
from .guest_programs import OK, answering, echo_messages, program, read_head, silent_program, socket_program

pytestmark = pytest.mark.asyncio(loop_scope="module")

_CADDYFILE: Final = Path(__file__).resolve().parents[2] / "deploy/caddy/Caddyfile"
_API: Final = "api.example.test"
_DOMAIN: Final = "sandboxes.example.test"
_REQUESTS: Final = 20


@dataclass
class Behind:
    """Two replicas behind Caddy. `first_ends` and `second_ends` end them."""

    port: int
    tls: ssl.SSLContext
    first: Platform
    second: Platform
    first_ends: AsyncExitStack
    second_ends: AsyncExitStack
    log: Path

    def client(self, name: str = _API) -> httpx2.AsyncClient:
        """A client of this name, which resolves to Caddy."""

        async def with_name(request: httpx2.Request) -> None:
            request.extensions["sni_hostname"] = name

        return httpx2.AsyncClient(
            base_url=f"https://127.0.0.1:{self.port}",
            headers={"X-API-Key": self.first.key.reveal(), "Host": f"{name}:{self.port}"},
            event_hooks={"request": [with_name]},
            timeout=DEADLINE_S,
            trust_env=False,
            verify=self.tls,
        )

    def socket(self, path: str, name: str = _API) -> connect:
        return connect(
            f"wss://{name}:{self.port}{path}",
            host="127.0.0.1",
            port=self.port,
            ssl=self.tls,
            additional_headers={"X-API-Key": self.first.key.reveal()},
            proxy=None,
        )

    async def create(self) -> str:
        """The id of a new sandbox."""
        async with self.client() as api:
            answer = await api.post("/v1/sandboxes", json={})
            assert answer.status_code == 201, answer.text
            return answer.json()["id"]


@asynccontextmanager
async def running_caddy(
    folder: Path, port: int, certificate: Path, replicas: list[str]
) -> AsyncGenerator[None]:
    """Caddy with the project's configuration, in front of these replicas."""
    environment = {
        **os.environ,
        "XDG_DATA_HOME": str(folder),
        "XDG_CONFIG_HOME": str(folder),
        "WRENN_BIND": "127.0.0.1",
        "WRENN_PORT": str(port),
        "WRENN_CERTIFICATE": str(certificate),
        **{f"WRENN_REPLICA_{number}": each for number, each in enumerate(replicas, 1)},
    }
    with (folder / "caddy.log").open("ab") as log:
        process = subprocess.Popen(
            ["caddy", "run", "--config", str(_CADDYFILE), "--adapter", "caddyfile"],
            env=environment,
            stdout=log,
            stderr=log,
        )
    try:
        async with asyncio.timeout(DEADLINE_S):
            while True:
                assert process.poll() is None, (folder / "caddy.log").read_text()
                try:
                    _, writer = await asyncio.open_connection("127.0.0.1", port)
                except ConnectionRefusedError:
                    await asyncio.sleep(0.05)
                else:
                    writer.close()
                    break
        yield
    finally:
        process.terminate()
        process.wait(10)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def behind(
    data_dir: Path, pki: Path, template_url: str, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Behind]:
    folder = tmp_path_factory.mktemp("caddy")
    certificate, ca_file = write_certificate(folder, [_API, f"*.{_DOMAIN}"])
    async with AsyncExitStack() as stack:
        url = await stack.enter_async_context(own_database(template_url))
        host = await stack.enter_async_context(agent_host(folder / "agent"))
        port = free_port()
        settings = Settings.from_environment(
            {
                **environment_of(data_dir, url),
                "WRENN_DOMAIN": f"{_DOMAIN}:{port}",
                "WRENN_TRUSTED_PROXIES": "127.0.0.1",
            }
        )
        key = await make_team(url, "ada")
        first_ends = await stack.enter_async_context(AsyncExitStack())
        first = await first_ends.enter_async_context(running_platform(settings, host, key))
        second_ends = await stack.enter_async_context(AsyncExitStack())
        second = await second_ends.enter_async_context(running_platform(settings, host, key))
        addresses = [str(httpx2.URL(each.url).netloc, "ascii") for each in (first, second)]
        await stack.enter_async_context(running_caddy(folder, port, certificate, addresses))
        tls = ssl.create_default_context(cafile=ca_file)
        yield Behind(port, tls, first, second, first_ends, second_ends, folder / "caddy.log")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def sandbox_id(behind: Behind) -> str:
    return await behind.create()


def _name(sandbox_id: str, port: int) -> str:
    return f"{port}-{sandbox_id}.{_DOMAIN}"


async def _lists(platform: Platform) -> float:
    """How many lists of sandboxes this replica has answered."""
    text, _ = await platform.control.metrics.render("text/plain")
    return sum(
        float(line.rpartition(" ")[2])
        for line in text.decode().splitlines()
        if line.startswith("wrenn_http_requests_total") and 'route="/v1/sandboxes"' in line
    )


async def test_requests_are_answered_by_both_replicas(behind: Behind, sandbox_id: str):
    before = [await _lists(behind.first), await _lists(behind.second)]
    async with behind.client() as api:
        for _ in range(_REQUESTS):
            assert [each["id"] for each in (await api.get("/v1/sandboxes")).json()] == [sandbox_id]
    more = [await _lists(behind.first) - before[0], await _lists(behind.second) - before[1]]
    assert sum(more) == _REQUESTS
    assert min(more) > 0


async def test_a_port_is_visited_by_its_wildcard_name(behind: Behind, sandbox_id: str):
    seen: list[list[bytes]] = []
    async with program(answering(OK, seen)) as port:
        name = _name(sandbox_id, port)
        async with behind.client(name) as visitor:
            for target in ["/", "//a//b/", "/%2e%2e/%2F%20", "/a?x=1&y=%20&x=2"]:
                url = httpx2.URL(visitor.base_url, raw_path=target.encode())
                assert (await visitor.get(url, headers={"X-Forwarded-For": "6.6.6.6"})).text == "ok"
                line, *headers = seen.pop()
                assert line.decode() == f"GET {target} HTTP/1.1"
                named = dict(each.decode().split(": ", 1) for each in headers)
                assert named["host"] == f"{name}:{behind.port}"
                # The client's own word for who it is does not count.
                assert (named["x-forwarded-for"], named["x-forwarded-proto"]) == ("127.0.0.1", "https")


async def test_a_program_is_followed_over_a_websocket(behind: Behind, sandbox_id: str):
    async with (
        asyncio.timeout(DEADLINE_S),
        behind.socket(f"/v1/sandboxes/{sandbox_id}/exec/stream") as socket,
    ):
        await socket.send(json.dumps({"type": "start", "cmd": "/bin/sh", "args": ["-c", "echo out; exit 7"]}))
        frames: list[Any] = [json.loads(message) async for message in socket]
    assert [each["type"] for each in frames] == ["start", "stdout", "exit"]
    assert (frames[1]["data"], frames[2]["exit_code"]) == ("out\n", 7)


async def test_a_websocket_of_a_port_passes_messages_both_ways(behind: Behind, sandbox_id: str):
    async with asyncio.timeout(DEADLINE_S), socket_program(echo_messages) as port:
        async with behind.socket("/socket", _name(sandbox_id, port)) as socket:
            for message in ["text", b"\0\xff", bytes(100_000)]:
                await socket.send(message)
                assert await socket.recv() == message


async def test_events_come_as_they_are_sent_and_end_with_their_reader(behind: Behind, sandbox_id: str):
    go_on, ended = asyncio.Event(), asyncio.Event()

    async def events(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_head(reader)
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\ndata: 1\n\n")
        await go_on.wait()
        writer.write(b"data: 2\n\n")
        await reader.read()  # until the other side ends
        ended.set()

    async with program(events) as port, asyncio.timeout(DEADLINE_S):
        async with behind.client(_name(sandbox_id, port)) as visitor, visitor.stream("GET", "/") as answer:
            pieces = answer.aiter_raw()
            assert await anext(pieces) == b"data: 1\n\n"
            go_on.set()
            assert await anext(pieces) == b"data: 2\n\n"
        await ended.wait()


async def test_a_visitor_who_leaves_before_the_answer_is_noticed(behind: Behind, sandbox_id: str):
    async with silent_program() as (port, asked, ended), asyncio.timeout(DEADLINE_S):
        async with behind.client(_name(sandbox_id, port)) as visitor:
            visit = asyncio.create_task(visitor.get("/"))
            await asked.wait()
            visit.cancel()
            await ended.wait()


async def test_when_a_replica_ends_the_other_answers_all_requests(behind: Behind, sandbox_id: str):
    await behind.second_ends.aclose()
    async with behind.client() as api:
        # Without bodies: the first of these that meets the replica that is gone is repeated at the other one.
        for _ in range(_REQUESTS):
            assert (await api.get("/v1/sandboxes")).status_code == 200
        for _ in range(_REQUESTS):
            answer = await api.post(f"/v1/sandboxes/{sandbox_id}/exec", json={"cmd": "true"})
            assert (answer.status_code, answer.json()["exit_code"]) == (200, 0)


async def test_a_failed_request_is_logged_without_credentials(behind: Behind, sandbox_id: str):
    await behind.first_ends.aclose()
    async with behind.client() as api:
        answer = await api.post(f"/v1/sandboxes/{sandbox_id}/exec?secret=1", json={"cmd": "true"})
        assert answer.status_code in (502, 503)
    log = behind.log.read_text()
    assert f"/v1/sandboxes/{sandbox_id}/exec?..." in log
    assert behind.first.key.reveal() not in log
    assert "secret=1" not in log
