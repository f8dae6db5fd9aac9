"""Ports of a real guest: servers in plain Python, reached through the whole platform."""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2
import pytest
import websockets
from playwright.async_api import async_playwright
from websockets.asyncio.client import connect

from tests.vm.guest_server import SERVER
from tests.vm.platform import Platform
from wrenn.base.units import MIB

DEADLINE_S = 60.0
CHROMIUM = Path("/usr/bin/chromium")
QUIET = [
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync",
]  # fmt: skip
PORT = 8000
LOOPBACK_PORT = 8001
LOOPBACK6_PORT = 8002


@dataclass
class Guest:
    """A sandbox with the servers of `guest_server.py`: on all addresses, on 127.0.0.1, on ::1."""

    api: httpx2.AsyncClient
    url: str
    key: str
    id: str

    def named(self, port: int = PORT) -> dict[str, str]:
        return {"X-Wrenn-Sandbox": self.id, "X-Wrenn-Port": str(port)}

    async def get(self, target: str, port: int = PORT) -> httpx2.Response:
        return await self.api.get(target, headers=self.named(port))

    def socket(self, port: int = PORT) -> connect:
        headers = {"X-API-Key": self.key, **self.named(port)}
        url = self.url.replace("http:", "ws:") + "/socket"
        return connect(url, additional_headers=headers, proxy=None, max_size=None, compression=None)

    def tunnel(self, port: int) -> connect:
        url = self.url.replace("http:", "ws:") + f"/v1/sandboxes/{self.id}/ports/{port}/tunnel"
        return connect(url, additional_headers={"X-API-Key": self.key}, proxy=None, compression=None)

    async def peer(self, port: int) -> str:
        """From where the program sees a new connection come."""
        async with asyncio.timeout(DEADLINE_S), self.tunnel(port) as stream:
            await stream.send(b"GET /echo HTTP/1.1\r\nHost: x\r\n\r\n")
            await stream.send("eof")
            got = b""
            while isinstance(piece := await stream.recv(), bytes):
                got += piece
        return json.loads(got.partition(b"\r\n\r\n")[2])["peer"]

    async def serve(self, host: str, port: int) -> None:
        body = {"cmd": "python3", "args": ["/root/server.py", host, str(port)], "background": True}
        answer = await self.api.post(f"/v1/sandboxes/{self.id}/exec", json=body)
        assert answer.status_code in (200, 202), answer.text
        async with asyncio.timeout(DEADLINE_S):
            while (await self.get("/", port)).status_code != 200:
                await asyncio.sleep(0.1)

    async def exec(self, script: str) -> dict[str, Any]:
        body = {"cmd": "/bin/sh", "args": ["-c", script]}
        return (await self.api.post(f"/v1/sandboxes/{self.id}/exec", json=body)).json()

    async def post(self, verb: str) -> httpx2.Response:
        return await self.api.post(f"/v1/sandboxes/{self.id}/{verb}")


@pytest.fixture
async def guest(platform: Platform) -> AsyncIterator[Guest]:
    async with platform.client() as api:
        made = await api.post("/v1/sandboxes", json={"memory_mb": 256})
        assert made.status_code == 201, made.text
        guest = Guest(api, platform.base_url, platform.key, made.json()["id"])
        files = {"path": (None, "/root/server.py"), "file": ("f", SERVER.encode())}
        assert (await api.post(f"/v1/sandboxes/{guest.id}/files/write", files=files)).status_code == 204
        await guest.serve("0.0.0.0", PORT)
        yield guest


async def test_a_server_in_a_guest_is_reached(guest: Guest) -> None:
    answer = await guest.get("/echo?a=%20b")
    assert answer.json()["target"] == "/echo?a=%20b"
    assert await guest.peer(PORT) == "169.254.1.1"
    # Uploads and downloads, whole and in order.
    body = hashlib.sha256(b"seed").digest() * (20 * MIB // 32)
    there = await guest.api.post("/digest", content=body, headers=guest.named())
    assert there.json() == {"size": len(body), "sha256": hashlib.sha256(body).hexdigest()}
    back = await guest.get(f"/bytes?{20 * MIB}")
    assert len(back.content) == 20 * MIB
    assert back.headers["x-sha256"] == hashlib.sha256(back.content).hexdigest()
    # Events arrive one by one: the second is only sent when the first was seen here.
    async with asyncio.timeout(DEADLINE_S):
        async with guest.api.stream("GET", "/events", headers=guest.named()) as events:
            lines = events.aiter_lines()
            for number in range(3):
                assert await anext(lines) == f"data: {number}"
                assert await anext(lines) == ""
                await guest.get("/next")
    async with asyncio.timeout(DEADLINE_S), guest.socket() as ws:
        for message in ["text", b"\0\xff", "x" * 200_000]:
            await ws.send(message)
            assert await ws.recv() == message
        await ws.send("close 4001")
        with pytest.raises(websockets.ConnectionClosed):
            await ws.recv()
        assert ws.close_code == 4001


async def test_what_listens_and_runs_in_a_guest_is_listed(guest: Guest) -> None:
    await guest.serve("::1", LOOPBACK6_PORT)
    found = (await guest.api.get(f"/v1/sandboxes/{guest.id}/ports")).json()["ports"]
    assert [(each["port"], each["addresses"], each["name"]) for each in found] == [
        (PORT, ["0.0.0.0"], "python3"),
        (LOOPBACK6_PORT, ["::1"], "python3"),
    ]
    processes = (await guest.api.get(f"/v1/sandboxes/{guest.id}/processes/all")).json()["processes"]
    by_pid = {each["pid"]: each for each in processes}
    assert by_pid[1]["managed"] is False, "the guest agent itself"
    server = by_pid[found[0]["pid"]]
    assert (server["command"], server["managed"]) == (f"python3 /root/server.py 0.0.0.0 {PORT}", True)
    assert server["memory_bytes"] > MIB
    assert not [each for each in processes if each["command"].startswith("kworker")], (
        "none of the kernel's own"
    )


async def test_a_server_on_loopback_is_reached_and_leaves_its_port_free(guest: Guest) -> None:
    assert (await guest.get("/", LOOPBACK_PORT)).json()["error"]["code"] == "port_closed"
    await guest.serve("127.0.0.1", LOOPBACK_PORT)
    await guest.serve("::1", LOOPBACK6_PORT)
    for port, peer in [(LOOPBACK_PORT, "127.0.0.1"), (LOOPBACK6_PORT, "::1")]:
        assert await guest.peer(port) == peer
        async with asyncio.timeout(DEADLINE_S), guest.socket(port) as ws, guest.tunnel(port) as stream:
            await ws.send("hello")
            assert await ws.recv() == "hello"
            # The program speaks first: not a byte of it is lost.
            await stream.send(b"GET /banner HTTP/1.0\r\n\r\n")
            await stream.send("eof")
            got = b""
            while isinstance(piece := await stream.recv(), bytes):
                got += piece
            assert got.endswith(b"\r\n\r\nbanner")
            assert piece == "eof"
        back = await guest.get(f"/bytes?{MIB}", port)
        assert back.headers["x-sha256"] == hashlib.sha256(back.content).hexdigest()
    # The same program starts again on all addresses, while a connection to the former one is open.
    async with guest.socket(LOOPBACK_PORT) as ws:
        await ws.send("hello")
        assert await ws.recv() == "hello"
        assert (await guest.exec(f"pkill -f '[s]erver.py 127.0.0.1 {LOOPBACK_PORT}'"))["exit_code"] == 0
        await guest.serve("0.0.0.0", LOOPBACK_PORT)
    assert await guest.peer(LOOPBACK_PORT) == "169.254.1.1"


async def test_a_pause_cuts_open_connections_and_a_resume_serves_new_ones(guest: Guest) -> None:
    async with asyncio.timeout(DEADLINE_S):
        async with (
            guest.socket() as ws,
            guest.api.stream("GET", "/events", headers=guest.named()) as events,
        ):
            await ws.send("hello")
            assert await ws.recv() == "hello"
            lines = events.aiter_lines()
            assert await anext(lines) == "data: 0"
            paused = await guest.post("pause")
            assert paused.status_code == 200, paused.text
            with pytest.raises(websockets.ConnectionClosed):
                await ws.recv()
            assert ws.close_code == 1012
            with pytest.raises(httpx2.TransportError):
                _ = [line async for line in lines]
        assert (await guest.get("/")).status_code == 409
        assert (await guest.post("resume")).status_code == 200
        assert (await guest.get("/echo")).status_code == 200
        async with guest.socket() as ws:
            await ws.send("again")
            assert await ws.recv() == "again"


async def test_only_traffic_keeps_a_sandbox_awake(guest: Guest) -> None:
    """A WebSocket without messages does not; requests and messages do."""
    async with asyncio.timeout(DEADLINE_S), guest.socket() as ws:
        await ws.send("hello")
        await ws.recv()
        patched = await guest.api.patch(f"/v1/sandboxes/{guest.id}/timeout", json={"timeout_sec": 4})
        assert patched.status_code == 200
        for _ in range(8):
            await ws.send("traffic")
            assert await ws.recv() == "traffic"
            await asyncio.sleep(1)
        assert (await guest.api.get(f"/v1/sandboxes/{guest.id}")).json()["status"] == "running"
        with pytest.raises(websockets.ConnectionClosed):
            await ws.recv()
        assert ws.close_code == 1012
    async with asyncio.timeout(DEADLINE_S):
        while (await guest.api.get(f"/v1/sandboxes/{guest.id}")).json()["status"] != "paused":
            await asyncio.sleep(0.2)


@pytest.mark.skipif(not CHROMIUM.exists(), reason="there is no Chromium: apt-get install chromium")
async def test_a_browser_opens_a_page_with_a_live_socket(guest: Guest) -> None:
    made = await guest.api.post(f"/v1/sandboxes/{guest.id}/ports/{PORT}/link", json={"expires_in_sec": 600})
    link: str = made.json()["url"]
    assert f"{PORT}-{guest.id}.localhost:" in link
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=CHROMIUM, args=QUIET)
        try:
            page = await browser.new_page()
            page.set_default_timeout(DEADLINE_S * 1000)
            await page.goto(link.replace("/?", "/page?"))
            assert await page.title() == "from inside"
            assert "wrenn_link" not in page.url
            # What the page fetches and its WebSocket go by the cookie, which the page itself cannot read.
            await page.wait_for_function("fetched.textContent === '/echo'")
            await page.wait_for_function("said.textContent === 'hello from the page'")
            assert await page.evaluate("document.cookie") == ""
            await page.evaluate("ws.send('still open')")
            await page.wait_for_function("said.textContent === 'still open'")
            # Another visitor without the link sees why not.
            stranger = await (await browser.new_context()).new_page()
            answer = await stranger.goto(page.url)
            assert answer is not None
            assert answer.status == 401
            assert "not public" in await stranger.inner_text("body")
        finally:
            await browser.close()
