"""The first create of a template on a host that has nothing of it, beside one on a host that has its image."""

from __future__ import annotations

import asyncio
import re
import shutil
import time
from pathlib import Path

import httpx2
from sqlalchemy import text

from tests.performance.api import create, forget, remove, run, stopwatch
from tests.performance.builds import build
from tests.performance.figures import Figure, median
from tests.performance.second_host import second_host
from tests.vm.platform import Platform
from wrenn.agent.enrolment import CredentialsFile
from wrenn.agent.images.transfer import ImageTransfer, TransferSettings
from wrenn.base.ids import ImageId
from wrenn.base.units import MIB
from wrenn.control.db import Database
from wrenn.protocol.image_manifest import CHUNK_B, Manifest

NAME = "bench-cold"
TAG = "bench-cold"
FRACTION = 0.15
_MOST_ROUNDS = 3
_START_S = 60.0
_SECTOR_B = 512
_FIRST_MB, _STEP_MB = 512, 16
"""Memory of the sandboxes: each size is booted once on a host."""


async def cold_creates(platform: Platform, rounds: int) -> list[Figure]:
    """Figures of creates whose host fetches the image first: of the time, and of the share of the image."""
    rounds = max(1, min(_MOST_ROUNDS, rounds))
    async with second_host(platform, "cold") as folder, platform.client(timeout_s=600) as api:
        await _tag(platform, "cold")
        await build(api, {"name": NAME, "dockerfile": "FROM template://minimal\nRUN echo cold > /srv/cold\n"})
        try:
            return await _measure(api, platform.data_dir / "store", folder, rounds)
        finally:
            await forget(api, NAME)


async def _measure(api: httpx2.AsyncClient, store: Path, folder: Path, rounds: int) -> list[Figure]:
    await _wait_for_host(api)
    colds: list[float] = []
    boots: list[float] = []
    restores: list[float] = []
    fetches: list[float] = []
    read_b = there_b = 0
    for number in range(rounds):
        memory_mb = _FIRST_MB + 2 * number * _STEP_MB
        for image in (folder / "images").glob("img-*"):
            shutil.rmtree(image)
        milliseconds, read_b = await _created(api, memory_mb)
        colds.append(milliseconds)
        (image,) = (folder / "images").glob("img-*")
        there_b = (image / "rootfs.ext4").stat().st_blocks * _SECTOR_B
        # The same with the image there: a size that was not booted here yet, and then once more.
        boots.append((await _created(api, memory_mb + _STEP_MB))[0])
        restores.append((await _created(api, memory_mb + _STEP_MB))[0])
        fetches.append(await _fetched_ms(folder, ImageId.parse(image.name)))
    cold, boot, fetch = median(colds), median(boots), median(fetches)
    image_b = _size_b(store)
    share = there_b / image_b
    return [
        Figure(
            f"create on a host without the image of its template → first exec ({rounds} rounds)",
            f"{boot / 1000:.1f} s (the same with the image, not booted yet; booted before {median(restores) / 1000:.1f} s) "
            f"+ {fetch / 1000:.1f} s (fetch of its {image_b / MIB:.0f} MB)",
            f"{cold / 1000:.1f} s",
            f"{cold / (boot + fetch):.2f}",
            "≤ 1",
            cold <= boot + fetch,
        ),
        Figure(
            "part of the image of `minimal` that is fetched before the first exec",
            f"{read_b / image_b:.1%} (what the sandbox has read of it)",
            f"{share:.0%}",
            "–",
            f"≤ {FRACTION:.0%}",
            share <= FRACTION,
        ),
    ]


def _size_b(store: Path) -> int:
    """What the image has beside zeros, by its manifest in the store."""
    (manifest,) = store.glob("team-*/images/img-*/*.json")
    chunks = Manifest.decode(manifest.read_bytes()).chunks
    return sum(CHUNK_B for digest in chunks if digest is not None)


async def _created(api: httpx2.AsyncClient, memory_mb: int) -> tuple[float, int]:
    """Milliseconds from the create to the end of the first exec, and how many bytes the guest has read of its root disk."""
    elapsed_ms = stopwatch()
    sandbox_id = await create(api, template=NAME, memory_mb=memory_mb, host_tags=[TAG])
    said = await run(api, sandbox_id, "cat /srv/cold /proc/diskstats")
    elapsed = elapsed_ms()
    assert said.startswith("cold\n")
    sectors = re.search(r" vda \d+ \d+ (\d+) ", said)
    assert sectors is not None, said
    await remove(api, sandbox_id)
    return elapsed, int(sectors[1]) * _SECTOR_B


async def _wait_for_host(api: httpx2.AsyncClient) -> None:
    async with asyncio.timeout(_START_S):
        # It may not have sent its first heartbeat yet.
        while (answer := await api.post("/v1/sandboxes", json={"host_tags": [TAG]})).status_code == 503:
            await asyncio.sleep(0.5)
    assert answer.status_code == 201, answer.text
    await remove(api, answer.json()["id"])


async def _fetched_ms(folder: Path, image_id: ImageId) -> float:
    credentials = CredentialsFile(folder).load()
    assert credentials is not None, "the host is registered"
    transfer = ImageTransfer(TransferSettings("", None, 0), lambda: credentials)
    fetched = folder / "fetched"
    try:
        began = time.perf_counter()
        await transfer.fetch(image_id, fetched, lambda _done, _total: None)
        return (time.perf_counter() - began) * 1000
    finally:
        fetched.unlink()
        await asyncio.to_thread(transfer.close)


async def _tag(platform: Platform, name: str) -> None:
    database = Database(platform.database_url)
    try:
        await database.execute(
            text(
                "INSERT INTO host_tags (host_id, tag) SELECT id, :tag FROM hosts WHERE name = :name"
            ).bindparams(tag=TAG, name=name)
        )
    finally:
        await database.close()
