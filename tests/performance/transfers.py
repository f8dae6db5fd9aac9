"""Upload and download of 200 MB as one file and as a directory, through the API beside straight to the guest agent.

Also what the processes grow by.
"""

from __future__ import annotations

import os
import tarfile
from collections.abc import AsyncIterator

import aiohttp
import httpx2

from tests.performance.figures import Figure, alternating, median, timed_ms
from tests.performance.floor import straight_to_guest
from tests.performance.memory import resident_kb
from tests.vm.platform import Platform
from wrenn.base.units import MIB
from wrenn.guest import Files

SIZE_B = 200 * MIB
CHUNK = os.urandom(256 * 1024)
GROWTH_LIMIT_KB = 32 * 1024


async def _content() -> AsyncIterator[bytes]:
    for _ in range(SIZE_B // len(CHUNK)):
        yield CHUNK


async def transfers(platform: Platform, rounds: int) -> list[Figure]:
    """Figures of files."""
    rounds = max(3, rounds // 4)
    # Downloads use the same HTTP client on both sides, so that only what lies between is compared.
    plain = aiohttp.ClientSession(platform.base_url, headers={"X-API-Key": platform.key})
    async with platform.client() as api, plain:
        sandbox_id = (await api.post("/v1/sandboxes", json={})).json()["id"]
        base = f"/v1/sandboxes/{sandbox_id}/files/stream"
        trees = f"/v1/sandboxes/{sandbox_id}/files/tar"
        async with straight_to_guest(platform, sandbox_id) as guest:
            files = Files(guest)

            async def up_straight() -> float:
                return await timed_ms(lambda: files.write("/root/straight", _content(), user="root"))

            async def up_api() -> float:
                return await timed_ms(lambda: _upload(api, f"{base}/write"))

            async def down_straight() -> float:
                return await timed_ms(lambda: _read_straight(files))

            async def down_api() -> float:
                return await timed_ms(lambda: _download(plain, f"{base}/read"))

            async def tree_down_straight() -> float:
                return await timed_ms(lambda: _tree_straight(files))

            async def tree_down_api() -> float:
                return await timed_ms(lambda: _tree(plain, f"{trees}/read"))

            async def tree_up_straight() -> float:
                return await timed_ms(lambda: files.write_tree("/root/tree", _archive(), user="root"))

            async def tree_up_api() -> float:
                return await timed_ms(lambda: _unpack(api, f"{trees}/write"))

            await alternating(up_straight, up_api, rounds=1)
            before = {name: resident_kb(p.pid) for name, p in platform.processes.items()}
            ups = await alternating(up_straight, up_api, rounds=rounds)
            downs = await alternating(down_straight, down_api, rounds=rounds)
            tree_ups = await alternating(tree_up_straight, tree_up_api, rounds=rounds)
            tree_downs = await alternating(tree_down_straight, tree_down_api, rounds=rounds)
            growth = {name: resident_kb(p.pid) - before[name] for name, p in platform.processes.items()}
        await api.delete(f"/v1/sandboxes/{sandbox_id}")
    return [
        _speed(f"upload of 200 MB ({rounds} rounds)", *ups),
        _speed(f"download of 200 MB ({rounds} rounds)", *downs),
        _speed(f"upload of a directory of 200 MB ({rounds} rounds)", *tree_ups),
        _speed(f"download of a directory of 200 MB ({rounds} rounds)", *tree_downs),
        _growth(growth),
    ]


def _speed(name: str, floors: list[float], values: list[float]) -> Figure:
    floor, value = (SIZE_B / MIB / (median(v) / 1000) for v in (floors, values))
    return Figure(
        name, f"{floor:.0f} MB/s (straight to envd)", f"{value:.0f} MB/s", f"{value / floor:.2f}", "≥ 0.80",
        value / floor >= 0.8,
    )  # fmt: skip


def _growth(growth: dict[str, int]) -> Figure:
    text = ", ".join(f"{name} {kb / 1024:+.1f} MB" for name, kb in sorted(growth.items()))
    return Figure(
        "memory grown by them", "–", text, "–", "< 32 MB", all(kb < GROWTH_LIMIT_KB for kb in growth.values())
    )


async def _upload(api: httpx2.AsyncClient, path: str) -> None:
    boundary = "figure"
    head = (
        f'--{boundary}\r\nContent-Disposition: form-data; name="path"\r\n\r\n/root/api\r\n'
        f'--{boundary}\r\nContent-Disposition: form-data; name="file"; filename="f"\r\n\r\n'
    ).encode()

    async def body() -> AsyncIterator[bytes]:
        yield head
        async for chunk in _content():
            yield chunk
        yield f"\r\n--{boundary}--\r\n".encode()

    answer = await api.post(
        path, content=body(), headers={"Content-Type": f"multipart/form-data; boundary={boundary}"}
    )
    assert answer.status_code == 204, answer.text


async def _download(api: aiohttp.ClientSession, path: str) -> None:
    size = 0
    async with api.post(path, json={"path": "/root/api"}) as answer:
        async for chunk in answer.content.iter_chunked(len(CHUNK)):
            size += len(chunk)
    assert size == SIZE_B


async def _read_straight(files: Files) -> None:
    size = 0
    async with files.read("/root/straight", user="root") as download:
        async for chunk in download.chunks:
            size += len(chunk)
    assert size == SIZE_B


async def _archive() -> AsyncIterator[bytes]:
    """Files of 4 MB."""
    for n in range(SIZE_B // (4 * MIB)):
        info = tarfile.TarInfo(f"file{n}")
        info.size = 4 * MIB
        yield info.tobuf()
        for _ in range(info.size // len(CHUNK)):
            yield CHUNK
    yield bytes(1024)


async def _unpack(api: httpx2.AsyncClient, path: str) -> None:
    answer = await api.post(path, params={"path": "/root/tree"}, content=_archive())
    assert answer.status_code == 204, answer.text


async def _tree(api: aiohttp.ClientSession, path: str) -> None:
    size = 0
    async with api.post(path, json={"path": "/root/tree"}) as answer:
        async for chunk in answer.content.iter_chunked(len(CHUNK)):
            size += len(chunk)
    assert size > SIZE_B


async def _tree_straight(files: Files) -> None:
    size = 0
    async with files.read_tree("/root/tree", user="root") as download:
        async for chunk in download.chunks:
            size += len(chunk)
    assert size > SIZE_B
