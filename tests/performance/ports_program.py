"""Visitors of a port, in a process of their own: `python -m tests.performance.ports_program KIND …` prints one JSON object.

`requests ADDRESS PORT SECONDS CONNECTIONS HEAD…`, `download ADDRESS PORT BYTES HEAD…`, `sockets URL SECONDS CONNECTIONS HEADER…`.
"""

from __future__ import annotations

import asyncio
import json
import socket
import sys
import time
from collections.abc import Sequence
from typing import cast

import uvloop
from websockets.asyncio.client import connect


class Visitor(asyncio.Protocol):
    """Sends the same request again as soon as its answer is whole."""

    def __init__(self, request: bytes, latencies: list[float]) -> None:
        self._request = request
        self._latencies = latencies
        self._received = b""
        self.transport: asyncio.Transport | None = None
        self.failed = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)
        self._ask()

    def _ask(self) -> None:
        assert self.transport is not None
        self._sent = time.perf_counter()
        self.transport.write(self._request)

    def data_received(self, data: bytes) -> None:
        self._received += data
        head, end, body = self._received.partition(b"\r\n\r\n")
        if not end:
            return
        if not head.startswith(b"HTTP/1.1 200"):
            self.failed = True
            return
        length = int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0])
        if len(body) >= length:
            self._latencies.append(time.perf_counter() - self._sent)
            self._received = b""
            self._ask()

    def connection_lost(self, exc: Exception | None) -> None:
        self.failed = self.failed or exc is not None


async def requests(address: str, port: int, seconds: float, connections: int, head: Sequence[str]) -> object:
    request = ("\r\n".join(["GET /small HTTP/1.1", *head]) + "\r\n\r\n").encode()
    latencies: list[float] = []
    visitors = [Visitor(request, latencies) for _ in range(connections)]
    loop = asyncio.get_running_loop()
    for visitor in visitors:
        await loop.create_connection(lambda visitor=visitor: visitor, address, port)
    await asyncio.sleep(1)  # the first requests are not like the others
    latencies.clear()
    started = time.perf_counter()
    await asyncio.sleep(seconds)
    elapsed = time.perf_counter() - started
    seen = sorted(latencies)
    assert not any(visitor.failed for visitor in visitors), "a request failed"
    for visitor in visitors:
        assert visitor.transport is not None
        visitor.transport.abort()
    return {"per_s": len(seen) / elapsed, "p50": seen[len(seen) // 2], "p99": seen[int(len(seen) * 0.99)]}


def download(address: str, port: int, size: int, head: Sequence[str]) -> object:
    request = ("\r\n".join([f"GET /bytes?{size} HTTP/1.1", *head, "Connection: close"]) + "\r\n\r\n").encode()
    with socket.create_connection((address, port)) as connection:
        started = time.perf_counter()
        connection.sendall(request)
        buffer = bytearray(1 << 20)
        received = connection.recv_into(buffer)
        begin = buffer.index(b"\r\n\r\n") + 4
        received -= begin
        while count := connection.recv_into(buffer):
            received += count
    assert received == size, f"{received} bytes of {size}"
    return {"mb_per_s": size / (1 << 20) / (time.perf_counter() - started)}


async def sockets(url: str, seconds: float, connections: int, headers: Sequence[str]) -> object:
    named = dict(header.split(": ", 1) for header in headers)
    end = time.monotonic() + seconds + connections * 0.02
    lost = 0
    messages = 0

    async def one(number: int) -> None:
        nonlocal lost, messages
        try:
            await asyncio.sleep(number * 0.02)
            async with connect(url, additional_headers=named, proxy=None, open_timeout=30) as ws:
                while time.monotonic() < end:
                    text = f"{number} {messages}"
                    await ws.send(text)
                    async with asyncio.timeout(30):
                        assert await ws.recv() == text
                    messages += 1
                    await asyncio.sleep(2)
        except Exception:  # noqa: BLE001 - whatever ends it, it is lost
            lost += 1

    await asyncio.gather(*(one(number) for number in range(connections)))
    return {"lost": lost, "messages": messages}


def main() -> None:
    kind, *words = sys.argv[1:]
    if kind == "requests":
        told = uvloop.run(requests(words[0], int(words[1]), float(words[2]), int(words[3]), words[4:]))
    elif kind == "download":
        told = download(words[0], int(words[1]), int(words[2]), words[3:])
    else:
        told = uvloop.run(sockets(words[0], float(words[1]), int(words[2]), words[3:]))
    print(json.dumps(told))


if __name__ == "__main__":
    main()
