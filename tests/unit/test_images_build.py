"""Deciding what to build: nothing when all is current, only what changed, and once for all who ask."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.built_images import VERSION, built_images, ensure


@pytest.fixture
async def built(tmp_path: Path) -> Path:
    return await built_images(tmp_path)


async def test_nothing_is_done_when_all_is_current(built: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in built.rglob("*")}
    said: list[str] = []
    images = await ensure(built, said)
    assert (images.kernel_version, images.kernel.read_bytes(), images.rootfs.read_bytes()) == (
        VERSION,
        b"kernel",
        b"disk",
    )
    assert said == []
    assert {path: path.stat().st_mtime_ns for path in built.rglob("*")} == before


async def test_a_data_folder_may_link_to_the_images_of_another(built: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    for name in ("kernels", "initramfs", "templates"):
        (other / name).symlink_to(built / name)
    said: list[str] = []
    assert (await ensure(other, said)).template_digest == (await ensure(built, said)).template_digest
    assert said == []
