"""Small but whole images for this machine, for tests of their building."""

from __future__ import annotations

from pathlib import Path

import pytest

from wrenn.base.errors import InvalidState, NotFound
from wrenn.storage.images import Images, ensure_images
from wrenn.storage.images.distributions import this_distribution
from wrenn.storage.images.initramfs import build_initramfs
from wrenn.storage.images.kernel import LOADABLE, MODULES, load_kernel
from wrenn.storage.images.manifest import FORMAT, SCRATCH_PREFIX, FileFacts, publish
from wrenn.storage.images.recipe import load_recipe

VERSION = "6.1.0-test"


async def _publish(place: Path, files: dict[str, bytes], manifest: dict[str, object]) -> dict[str, FileFacts]:
    scratch = place.parent / f"{SCRATCH_PREFIX}test"
    facts: dict[str, FileFacts] = {}
    for name, content in files.items():
        path = scratch / "result" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        facts[path.name] = FileFacts.of(path)
    described = {name.split(".")[0]: fact.to_json() for name, fact in facts.items() if name != "virtio.ko"}
    modules = {name: fact.to_json() for name, fact in facts.items() if name == "virtio.ko"}
    await publish(scratch / "result", place, {"format": FORMAT, **described, "modules": modules, **manifest})
    scratch.rmdir()
    return facts


async def built_images(tmp_path: Path) -> Path:
    """A data folder with small but whole images for this machine, made from `envd` beside it."""
    try:
        recipe = load_recipe("minimal", this_distribution().suite)
    except (InvalidState, NotFound) as error:
        pytest.skip(error.message)
    data_dir = tmp_path / "data"
    files = {"vmlinux": b"kernel", "modules/virtio.ko": b"module"}
    kernel: dict[str, object] = {"load_order": "virtio.ko", "wanted": " ".join((*MODULES, *LOADABLE))}
    await _publish(data_dir / "kernels" / VERSION, files, kernel)
    await _publish(data_dir / "templates/minimal", {"rootfs.ext4": b"disk"}, {"source_digest": recipe.digest})
    (tmp_path / "envd").write_bytes(b"first")
    (data_dir / "initramfs").mkdir()
    await build_initramfs(
        data_dir / "initramfs", load_kernel(data_dir / "kernels", VERSION), tmp_path / "envd"
    )
    return data_dir


async def ensure(data_dir: Path, said: list[str]) -> Images:
    """Build what is old, from the `envd` beside the data folder."""
    return await ensure_images(data_dir, envd=data_dir.parent / "envd", progress=said.append)
