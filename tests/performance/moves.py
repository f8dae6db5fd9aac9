"""What a move of an idle paused sandbox to another host costs, beside the upload and download of its bytes."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

import httpx2
import zstandard

from tests.performance.figures import Figure
from tests.performance.second_host import second_host
from tests.vm.platform import Platform
from wrenn.agent.enrolment import CredentialsFile
from wrenn.agent.images.transfer import ImageTransfer, TransferSettings
from wrenn.base.ids import HostId, ImageId
from wrenn.base.units import MIB
from wrenn.control.db import Database
from wrenn.control.images import Images
from wrenn.protocol.image_manifest import CHUNK_B

MEMORY_MB = 512
FACTOR = 1.5
_LEASE_S = 600.0
_START_S = 60.0


def no_progress(_done_b: int, _total_b: int) -> None:
    """Nobody watches."""


async def moves(platform: Platform, _rounds: int) -> list[Figure]:
    """The figure of a move: the first of its team, so that all of its bytes are sent."""
    async with second_host(platform, "second") as folder:
        return [await _measure(platform, folder)]


async def _measure(platform: Platform, folder: Path) -> Figure:
    headers = {"X-API-Key": platform.key}
    async with httpx2.AsyncClient(base_url=platform.base_url, headers=headers, timeout=600) as api:
        created = (await api.post("/v1/sandboxes", json={"memory_mb": MEMORY_MB, "vcpus": 1})).json()
        path = f"/v1/sandboxes/{created['id']}"
        await _done(api, f"{path}/pause")
        async with asyncio.timeout(_START_S):
            # The second host may not have sent its first heartbeat yet.
            while True:
                began = time.perf_counter()
                moved = await api.post(f"{path}/move", json={})
                move_s = time.perf_counter() - began
                if moved.status_code == 200:
                    break
                assert moved.status_code == 503, moved.text
                await asyncio.sleep(0.5)
        # Before the resume, after which the store needs it no more.
        content, bytes_b = await asyncio.to_thread(_chunks, platform, folder)
        began = time.perf_counter()
        await _done(api, f"{path}/resume")
        resume_s = time.perf_counter() - began
        transfer_s = await _transfer(platform, content, folder / "fetched")
        await _done(api, f"{path}/pause")
        began = time.perf_counter()
        await _done(api, f"{path}/move", {})
        again_s = time.perf_counter() - began
        await api.delete(path)
    limit_s = FACTOR * transfer_s + resume_s
    return Figure(
        f"move of an idle paused {MEMORY_MB} MB sandbox, its team's first",
        f"{transfer_s:.2f} s (upload and download of its {bytes_b / MIB:.0f} MB); resume {resume_s:.2f} s",
        f"{move_s:.2f} s; back again {again_s:.2f} s",
        f"{move_s / limit_s:.2f}",
        f"≤ {FACTOR} × floor + 1 resume",
        move_s <= limit_s,
    )


async def _done(api: httpx2.AsyncClient, path: str, body: dict[str, object] | None = None) -> None:
    answer = await api.post(path, json=body)
    assert answer.status_code == 200, answer.text


def _chunks(platform: Platform, folder: Path) -> tuple[Path, int]:
    """Copy the content of the chunks that teams have in the store to a file; returns it, and how many bytes they have in the store."""
    content, bytes_b = folder / "chunks", 0
    with content.open("wb") as out:
        for found in sorted((platform.data_dir / "store").glob("team-*/chunks/*/*")):
            try:
                frame = found.read_bytes()
            except FileNotFoundError:
                # Nothing needs it any more, and it was just collected.
                continue
            bytes_b += len(frame)
            out.write(zstandard.ZstdDecompressor().decompress(frame).ljust(CHUNK_B, b"\0"))
    return content, bytes_b


async def _transfer(platform: Platform, content: Path, fetched: Path) -> float:
    """Send a file as an image of the platform, and fetch it; returns the seconds."""
    credentials = CredentialsFile(platform.data_dir).load()
    assert credentials is not None, "the platform's host is registered"
    transfer = ImageTransfer(TransferSettings(platform.base_url, None, 0), lambda: credentials)
    database = Database(platform.database_url)
    images = Images(database=database, owner="bench", lease_s=_LEASE_S)
    try:
        host_id = HostId.parse(credentials.host_id)
        image_id: ImageId = await database.transaction(lambda tx: images.begin(tx, None, host_id))
        began = time.perf_counter()
        await transfer.upload(image_id, content, no_progress)
        upload_s = time.perf_counter() - began
        await database.transaction(lambda tx: images.publish(tx, image_id))
        began = time.perf_counter()
        await transfer.fetch(image_id, fetched, no_progress)
        fetch_s = time.perf_counter() - began
        for file in (content, fetched):
            file.unlink()
    finally:
        await database.close()
        await asyncio.to_thread(transfer.close)
    return upload_s + fetch_s
