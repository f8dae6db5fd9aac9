"""Load on one URL from a process of its own: URL, API key, connections, seconds; prints requests a second and p99 as JSON.

Plain sockets: an HTTP client library would take more of the machine than the server that it measures.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from urllib.parse import urlsplit

from tests.performance.figures import percentile


async def _one(host: str, port: int, request: bytes, until: float, times_ms: list[float]) -> None:
    reader, writer = await asyncio.open_connection(host, port)
    while (started := time.perf_counter()) < until:
        writer.write(request)
        head = await reader.readuntil(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 200"), head
        length = int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0])
        await reader.readexactly(length)
        times_ms.append((time.perf_counter() - started) * 1000)
    writer.close()


async def main(url: str, key: str, connections: int, seconds: float) -> None:
    parts = urlsplit(url)
    host, port = parts.hostname or "", parts.port or 80
    request = f"GET {parts.path} HTTP/1.1\r\nHost: {host}:{port}\r\nX-API-Key: {key}\r\n\r\n".encode()
    times_ms: list[float] = []
    warm_up = time.perf_counter() + 0.3
    await _one(host, port, request, warm_up, [])
    started = time.perf_counter()
    await asyncio.gather(
        *(_one(host, port, request, started + seconds, times_ms) for _ in range(connections))
    )
    rate = len(times_ms) / (time.perf_counter() - started)
    print(json.dumps({"rate": rate, "p99_ms": percentile(times_ms, 0.99)}))


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], sys.argv[2], int(sys.argv[3]), float(sys.argv[4])))
