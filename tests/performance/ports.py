"""Ports of a sandbox: through the platform beside straight to the same server in the guest."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx2

from tests.performance.api import create, remove
from tests.performance.figures import Figure, median
from tests.performance.inside import slot_of
from tests.performance.memory import resident_kb
from tests.vm.platform import Platform
from wrenn.base.units import MIB
from wrenn.network import find_block

PORT = 8000
CONNECTIONS = 50
SECONDS = 8
SIZE_B = 200 * MIB
SOCKETS = 200
SOCKET_SECONDS = 60

SERVER = r"""
import asyncio, base64, hashlib

BLOCK = bytes(1 << 18)
SMALL = b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 12\r\n\r\nhello world\n"


class Serve(asyncio.Protocol):
    def connection_made(self, transport):
        self.transport, self.rest, self.left, self.is_socket = transport, b"", 0, False

    def data_received(self, data):
        self.rest += data
        if self.is_socket:
            return self.frames()
        while b"\r\n\r\n" in self.rest:
            head, _, self.rest = self.rest.partition(b"\r\n\r\n")
            target = head.split(b" ", 2)[1]
            if target.startswith(b"/bytes?"):
                self.left = int(target[7:])
                self.transport.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % self.left)
                self.closing = b"connection: close" in head.lower()
                self.resume_writing()
            elif b"pgrade: websocket" in head:
                key = next(l for l in head.split(b"\r\n") if l.lower().startswith(b"sec-websocket-key")).split(b": ")[1]
                accept = base64.b64encode(hashlib.sha1(key + b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11").digest())
                self.transport.write(b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: " + accept + b"\r\n\r\n")
                self.is_socket = True
                return self.frames()
            else:
                self.transport.write(SMALL)

    paused = False

    def pause_writing(self):
        self.paused = True

    def resume_writing(self):
        self.paused = False
        while self.left and not self.paused:
            piece = BLOCK[: self.left]
            self.left -= len(piece)
            self.transport.write(piece)
        if not self.left and getattr(self, "closing", False):
            self.transport.close()

    def frames(self):
        while len(self.rest) >= 6:
            size = self.rest[1] & 127
            if size > 125 or len(self.rest) < 6 + size:
                return
            mask, masked = self.rest[2:6], self.rest[6 : 6 + size]
            data = bytes(b ^ mask[i % 4] for i, b in enumerate(masked))
            opcode = self.rest[0] & 15
            self.rest = self.rest[6 + size :]
            if opcode == 8:
                self.transport.write(bytes([0x88, size]) + data)
                return self.transport.close()
            self.transport.write(bytes([0x80 | (10 if opcode == 9 else opcode), size]) + data)


async def main():
    server = await asyncio.get_running_loop().create_server(Serve, "0.0.0.0", 8000, backlog=512)
    await server.serve_forever()


asyncio.run(main())
"""


async def ports(platform: Platform, rounds: int) -> list[Figure]:
    """Figures of ports."""
    rounds = max(3, min(rounds // 4, 5))
    async with platform.client() as api:
        sandbox_id = await create(api, memory_mb=512)
        await _serve(api, sandbox_id)
        block = find_block(platform.data_dir)
        assert block is not None
        straight = (str(block.address(slot_of(platform.data_dir, sandbox_id))), PORT, ["Host: guest"])
        proxied = (
            "127.0.0.1",
            platform.api_port,
            [f"Host: {PORT}-{sandbox_id}.localhost:{platform.api_port}", f"X-API-Key: {platform.key}"],
        )
        figures = await _requests(straight, proxied, rounds)
        figures.append(await _downloads(straight, proxied, rounds))
        figures += await _sockets(platform, sandbox_id)
        await remove(api, sandbox_id)
    return figures


async def _serve(api: httpx2.AsyncClient, sandbox_id: str) -> None:
    files = {"path": (None, "/root/server.py"), "file": ("f", SERVER.encode())}
    base = f"/v1/sandboxes/{sandbox_id}"
    assert (await api.post(f"{base}/files/write", files=files)).status_code == 204
    body = {"cmd": "python3", "args": ["/root/server.py"], "background": True}
    assert (await api.post(f"{base}/exec", json=body)).status_code == 202
    there = {"X-Wrenn-Sandbox": sandbox_id, "X-Wrenn-Port": str(PORT)}
    async with asyncio.timeout(60):
        while (await api.get("/", headers=there)).status_code != 200:
            await asyncio.sleep(0.1)


async def _visit(
    kind: str, *words: object, while_running: Callable[[], None] = lambda: None
) -> dict[str, Any]:
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "tests.performance.ports_program",
        kind,
        *(str(word) for word in words),
        stdout=asyncio.subprocess.PIPE,
        cwd=Path(__file__).resolve().parent.parent.parent,
    )
    reading = asyncio.create_task(process.communicate())
    while not reading.done():
        await asyncio.wait({reading}, timeout=1)
        while_running()
    assert process.returncode == 0, f"{kind} failed"
    return json.loads(reading.result()[0])


Place = tuple[str, int, list[str]]


async def _requests(straight: Place, proxied: Place, rounds: int) -> list[Figure]:
    seen: list[tuple[dict[str, Any], dict[str, Any]]] = []
    for _ in range(rounds):
        pair = [
            await _visit("requests", address, port, SECONDS, CONNECTIONS, *head)
            for address, port, head in (straight, proxied)
        ]
        seen.append((pair[0], pair[1]))
    floor, value = (median([pair[side]["per_s"] for pair in seen]) for side in (0, 1))
    floor_p99, p99 = (median([pair[side]["p99"] * 1000 for pair in seen]) for side in (0, 1))
    return [
        Figure(
            f"small answers of a port, {CONNECTIONS} connections ({rounds} rounds of {SECONDS} s)",
            f"{floor:.0f} /s (straight to the server)", f"{value:.0f} /s", f"{value / floor:.2f}", "≥ 0.40",
            value / floor >= 0.4,
        ),
        Figure(
            "… p99", f"{floor_p99:.0f} ms", f"{p99:.0f} ms", f"{p99 / floor_p99:.2f}", "≤ 3", p99 <= 3 * floor_p99
        ),
    ]  # fmt: skip


async def _downloads(straight: Place, proxied: Place, rounds: int) -> Figure:
    speeds: tuple[list[float], list[float]] = ([], [])
    for _ in range(rounds):
        for side, (address, port, head) in zip(speeds, (straight, proxied), strict=True):
            side.append((await _visit("download", address, port, SIZE_B, *head))["mb_per_s"])
    floor, value = (median(side) for side in speeds)
    return Figure(
        f"download of 200 MB from a port ({rounds} rounds)", f"{floor:.0f} MB/s (straight to the server)",
        f"{value:.0f} MB/s", f"{value / floor:.2f}", "≥ 0.70", value / floor >= 0.7,
    )  # fmt: skip


async def _sockets(platform: Platform, sandbox_id: str) -> list[Figure]:
    url = f"ws://127.0.0.1:{platform.api_port}/"
    headers = [f"X-API-Key: {platform.key}", f"X-Wrenn-Sandbox: {sandbox_id}", f"X-Wrenn-Port: {PORT}"]
    before = {name: resident_kb(process.pid) for name, process in platform.processes.items()}
    most = dict(before)

    def look() -> None:
        for name, process in platform.processes.items():
            most[name] = max(most[name], resident_kb(process.pid))

    told = await _visit("sockets", url, SOCKET_SECONDS, SOCKETS, *headers, while_running=look)
    each = ", ".join(f"{name} {(most[name] - before[name]) / SOCKETS:.0f} KB" for name in sorted(most))
    return [
        Figure(
            f"{SOCKETS} WebSockets open for {SOCKET_SECONDS} s", "–", f"{told['lost']} lost, {told['messages']} echoes",
            "–", "0 lost", told["lost"] == 0,
        ),
        Figure("… memory of each", "–", each, "–", "reported", None),
    ]  # fmt: skip
