"""What a second version of an image costs to upload, beside the compressed bytes that changed in it."""

from __future__ import annotations

import asyncio
import base64
import os
import shutil
import tempfile
import time
from pathlib import Path

from tests.performance.figures import Figure
from tests.vm.platform import Platform
from wrenn.agent.enrolment import CredentialsFile
from wrenn.agent.images.transfer import ImageTransfer, TransferSettings
from wrenn.base.ids import HostId, ImageId
from wrenn.base.units import MIB
from wrenn.control.db import Database
from wrenn.control.images import Images
from wrenn.linux.command import run
from wrenn.storage.objects import compress

FILES = 1000
CHANGED = 50
IMAGE_MB = 1200
LIMIT = 1.15
_LEASE_S = 600.0
_TIMEOUT_S = 120.0


async def image_versions(platform: Platform, _rounds: int) -> list[Figure]:
    """The figure of the upload: a file system with 1,000 files of 1 MB, of which 50 are replaced."""
    folder = Path(tempfile.mkdtemp(prefix="wrenn-bench-image-"))
    try:
        return await _measure(platform, folder)
    finally:
        shutil.rmtree(folder)


async def _measure(platform: Platform, folder: Path) -> list[Figure]:
    rootfs = folder / "rootfs.ext4"
    tree = folder / "tree"
    tree.mkdir()
    for number in range(FILES):
        (tree / str(number)).write_bytes(_content())
    await run(["mkfs.ext4", "-q", "-d", str(tree), str(rootfs), f"{IMAGE_MB}M"], timeout_s=_TIMEOUT_S)
    shutil.rmtree(tree)
    credentials = CredentialsFile(platform.data_dir).load()
    assert credentials is not None, "the platform's host is registered"
    transfer = ImageTransfer(TransferSettings(platform.base_url, None, 0), lambda: credentials)
    database = Database(platform.database_url)
    images = Images(database=database, owner="bench", lease_s=_LEASE_S)

    async def upload() -> tuple[int, float]:
        host_id = HostId.parse(credentials.host_id)
        image_id: ImageId = await database.transaction(lambda tx: images.begin(tx, None, host_id))
        started = time.perf_counter()
        sent_b = await transfer.upload(image_id, rootfs, lambda _done, _total: None)
        taken_s = time.perf_counter() - started
        await database.transaction(lambda tx: images.publish(tx, image_id, disk_size_mb=IMAGE_MB))
        return sent_b, taken_s

    async def change(commands: list[str]) -> None:
        script = folder / "commands"
        script.write_text("\n".join(commands) + "\n")
        await run(["debugfs", "-w", "-f", str(script), str(rootfs)], timeout_s=_TIMEOUT_S)

    def new_files() -> tuple[list[Path], int]:
        contents = [_content() for _ in range(CHANGED)]
        paths = [folder / f"new-{number}" for number in range(CHANGED)]
        for path, content in zip(paths, contents, strict=True):
            path.write_bytes(content)
        return paths, sum(len(compress(content)) for content in contents)

    try:
        first_b, first_s = await upload()
        old = range(0, FILES, FILES // CHANGED)
        # As a package manager replaces files: the new ones are written, then take the places of the old ones.
        paths, replaced_b = new_files()
        await change([f"write {path} {path.name}" for path in paths] + [f"rm /{number}" for number in old])
        second_b, second_s = await upload()
        # The worst case: files that lie apart are overwritten, and each touches two chunks.
        paths, scattered_b = new_files()
        again = [number + 1 for number in old]
        commands: list[str] = []
        for path, number in zip(paths, again, strict=True):
            commands += [f"rm /{number}", f"write {path} {number}"]
        await change(commands)
        third_b, _ = await upload()
    finally:
        await database.close()
        await asyncio.to_thread(transfer.close)
    ratio = second_b / replaced_b
    first = f"the first version: {first_b / MIB:.0f} MB in {first_s:.1f} s"
    return [
        Figure(
            f"upload of a second version of a {FILES} MB image, in which {CHANGED} files of 1 MB were replaced",
            f"{replaced_b / MIB:.1f} MB (these files, compressed)",
            f"{second_b / MIB:.1f} MB in {second_s:.1f} s ({first})",
            f"{ratio:.2f}",
            f"≤ {LIMIT}",
            ratio <= LIMIT,
        ),
        Figure(
            f"the same, with {CHANGED} files of 1 MB overwritten where they lie, all over the image",
            f"{scattered_b / MIB:.1f} MB",
            f"{third_b / MIB:.1f} MB",
            f"{third_b / scattered_b:.2f}",
            "–",
            None,
        ),
    ]


def _content() -> bytes:
    """1 MB that can be compressed to three quarters."""
    return base64.b64encode(os.urandom(MIB * 3 // 4))
