"""Images in Google Cloud Storage: real control plane, the agent's real transfer, fake-gcs-server. Costs about 10 s, and minutes to build it once."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.google_server import google_server
from wrenn.base.units import MIB

from .test_images_store import quiet, running_world, settle, sha

pytestmark = [pytest.mark.packages, pytest.mark.asyncio(loop_scope="module")]


async def test_an_image_goes_through_cloud_storage_and_is_removed_from_it(
    data_dir: Path, pki: Path, template_url: str, tmp_path: Path
):
    rootfs = tmp_path / "rootfs"
    rootfs.write_bytes(os.urandom(3 * MIB) + bytes(2 * MIB) + b"end")
    async with (
        google_server(tmp_path) as settings,
        running_world(data_dir, template_url, tmp_path, None, **settings) as world,
    ):
        image_id, sent_b = await world.uploaded(rootfs)
        assert sent_b > 3 * MIB
        await world.transfer(world.second).fetch(image_id, tmp_path / "copy", quiet)
        assert sha(tmp_path / "copy") == sha(rootfs)
        _, again_b = await world.uploaded(rootfs, world.second)
        assert again_b == 0
        await world.retire(image_id)
        await settle(world)
        assert not any(str(image_id) in key for key in await world.keys("platform"))
