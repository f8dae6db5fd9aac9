"""The import of a container image of 150 MB from a local registry, beside the three programs that do it by hand.

`python -m tests.performance.container_imports` runs this alone.
"""

from __future__ import annotations

import asyncio
import base64
import os
import shutil
import tempfile
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from itertools import count
from pathlib import Path

import httpx2

from tests.container_images import (
    REGISTRY_NAMESPACE,
    REGISTRY_PORT,
    Layer,
    push,
    registry_beside_host,
)
from tests.installations import remove_installation
from tests.performance.api import stopwatch
from tests.performance.builds import build
from tests.performance.figures import Figure, alternating, median
from tests.vm.platform import Platform, running_platform
from wrenn.base.units import KIB, MIB
from wrenn.linux.command import run
from wrenn.storage.images.template import mkfs_arguments

IMAGE_MB = 150
FILE_KB = 50
LAYERS = 3
DISK_MB = 5120
FACTOR = 2.0
ROUNDS = 3
_TIMEOUT_S = 300.0


async def container_imports(rounds: int) -> list[Figure]:
    """The figure of imports. Every round has an image that neither the host nor the platform knows."""
    rounds = max(1, min(ROUNDS, rounds))
    async with _platform_and_registry() as (platform, registry, folder), platform.client() as api:
        layers = [_layer(number) for number in range(LAYERS)]
        numbers = count()

        async def pushed() -> str:
            number = next(numbers)
            own = Layer().folder("etc").add("etc/number", str(number).encode()).done()
            await push(REGISTRY_NAMESPACE, folder, f"bench:{number}", [*layers, own])
            return f"bench:{number}"

        async def by_hand_ms() -> float:
            return await _by_hand_ms(f"127.0.0.1:{REGISTRY_PORT}/{await pushed()}", folder)

        async def imported_ms() -> float:
            name = await pushed()
            elapsed_ms = stopwatch()
            await _import(api, f"{registry}/{name}")
            elapsed = elapsed_ms()
            # What it takes of the disk's cache and of the store does not grow with the rounds.
            assert (await api.delete("/v1/templates/bench")).status_code == 204
            return elapsed

        await imported_ms()
        floors, values = await alternating(by_hand_ms, imported_ms, rounds=rounds)
    ratio = median(values) / median(floors)
    return [
        Figure(
            f"import of a container image of {IMAGE_MB} MB from a local registry, to the template in the store ({rounds} rounds)",
            f"{median(floors) / 1000:.1f} s (`skopeo copy`, `umoci unpack`, `mkfs.ext4 -d`)",
            f"{median(values) / 1000:.1f} s",
            f"{ratio:.2f}",
            f"≤ {FACTOR:g}",
            ratio <= FACTOR,
        )
    ]


@asynccontextmanager
async def _platform_and_registry() -> AsyncGenerator[tuple[Platform, str, Path]]:
    images = Path(os.environ.get("WRENN_IMAGES_DIR", "/var/lib/wrenn"))
    folder = Path(tempfile.mkdtemp(prefix="wrenn-bench-import-"))
    data_dir = Path(tempfile.mkdtemp(prefix="wrenn-bench-"))
    try:
        async with (
            registry_beside_host(folder / "registry") as address,
            running_platform(
                data_dir,
                images,
                private_networks=f"{address}/32",
                insecure_registries=f"{address}:{REGISTRY_PORT}",
                measured=True,
            ) as platform,
        ):
            yield platform, f"{address}:{REGISTRY_PORT}", folder
    finally:
        await remove_installation(data_dir)
        for each in (data_dir, folder):
            shutil.rmtree(each)


def _layer(number: int) -> bytes:
    """A layer of files that can be compressed to three quarters, with the shell that an image usually has."""
    layer = Layer()
    if number == 0:
        layer.folder("bin").add("bin/busybox", Path("/usr/bin/busybox").read_bytes(), mode=0o755)
    for index in range(IMAGE_MB * MIB // LAYERS // (FILE_KB * KIB)):
        content = base64.b64encode(os.urandom(FILE_KB * KIB * 3 // 4))
        layer.add(f"opt/{number}/{index // 100}/{index}", content)
    return layer.done()


async def _by_hand_ms(reference: str, folder: Path) -> float:
    work = folder / "by-hand"
    work.mkdir()
    try:
        elapsed_ms = stopwatch()
        copy = ["skopeo", "--insecure-policy", "copy", "--quiet", "--src-tls-verify=false"]
        await run(
            ["ip", "netns", "exec", REGISTRY_NAMESPACE, *copy, f"docker://{reference}", f"oci:{work}/layout:image"],
            timeout_s=_TIMEOUT_S,
        )  # fmt: skip
        await run(
            ["umoci", "unpack", "--image", f"{work}/layout:image", f"{work}/bundle"], timeout_s=_TIMEOUT_S
        )
        image = work / "rootfs.ext4"
        with image.open("xb") as file:
            file.truncate(DISK_MB * MIB)
        await run(["mkfs.ext4", *mkfs_arguments(work / "bundle/rootfs", image)], timeout_s=_TIMEOUT_S)
        return elapsed_ms()
    finally:
        await asyncio.to_thread(shutil.rmtree, work)


async def _import(api: httpx2.AsyncClient, reference: str) -> None:
    await build(api, {"name": "bench", "dockerfile": f"FROM {reference}\n", "disk_size_mb": DISK_MB})


async def _main() -> None:
    for figure in await container_imports(ROUNDS):
        print(figure.row())


if __name__ == "__main__":
    asyncio.run(_main())
