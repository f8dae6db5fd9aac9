"""A store whose objects are encrypted: real control plane, the agent's real transfer, a folder as the store. Costs about 15 s."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from pathlib import Path

import httpx2
import pytest
import pytest_asyncio

from wrenn.base.errors import InvalidRequest, StoreUnavailable
from wrenn.base.units import MIB
from wrenn.control.objects import StoreKeys
from wrenn.protocol.image_manifest import digest_of
from wrenn.protocol.sealed_objects import MAGIC, ObjectKey
from wrenn.storage.objects import DamagedChunk

from .test_images_store import PLATFORM, World, quick, quiet, running_world, settle, sha

pytestmark = pytest.mark.asyncio(loop_scope="module")

_OLD, _NEW = "0" * 63 + "1", "ab" * 32


@pytest.fixture(scope="module")
def key_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("keys") / "store.key"
    path.write_text(f"# the only one\n{_OLD}\n")
    return path


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def world(
    data_dir: Path, pki: Path, template_url: str, tmp_path_factory: pytest.TempPathFactory, key_file: Path
) -> AsyncIterator[World]:
    folder = tmp_path_factory.mktemp("store")
    async with running_world(data_dir, template_url, folder, None, WRENN_STORE_KEY=str(key_file)) as started:
        yield started


@pytest.fixture
def rootfs(tmp_path: Path) -> Path:
    """Text that would be found in an object that is not encrypted, and noise that no other test has."""
    path = tmp_path / "rootfs"
    path.write_bytes(b"CONFIDENTIAL " * 1000 + os.urandom(2 * MIB))
    return path


def objects(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file()]


async def test_nothing_in_the_store_shows_what_is_in_an_image(world: World, rootfs: Path, tmp_path: Path):
    first = objects(world.folder)
    image_id, sent_b = await world.uploaded(rootfs)
    new = [path for path in objects(world.folder) if path not in first]
    assert len(new) == 4, "three chunks and the manifest"
    digests = [digest_of(rootfs.read_bytes()[at : at + MIB]) for at in range(0, rootfs.stat().st_size, MIB)]
    for path in new:
        content = path.read_bytes()
        assert content.startswith(MAGIC)
        assert b"CONFIDENTIAL" not in content
        assert str(image_id).encode() not in content
        assert path.name not in digests
    await world.transfer(world.second).fetch(image_id, tmp_path / "copy", quiet)
    assert sha(tmp_path / "copy") == sha(rootfs)
    # What is there is not sent again.
    assert sent_b > 2 * MIB
    _, again_b = await world.uploaded(rootfs, world.second)
    assert again_b == 0


async def test_an_object_that_is_altered_swapped_or_not_encrypted_is_refused(
    world: World, rootfs: Path, tmp_path: Path
):
    first = objects(world.folder)
    image_id, _ = await world.uploaded(rootfs)
    chunks = [path for path in objects(world.folder) if path not in first and "chunks" in str(path)]
    (manifest,) = [path for path in objects(world.folder) if path not in first and path not in chunks]
    plain = world.plane.control.objects.keys.open(
        str(manifest.relative_to(world.folder)), manifest.read_bytes()
    )
    for path, wrong in (
        (chunks[0], chunks[1].read_bytes()),
        (chunks[0], chunks[0].read_bytes()[:-1] + b"x"),
        (chunks[0], MAGIC),
        (manifest, plain),
        (manifest, manifest.read_bytes()[:-1] + b"x"),
    ):
        good = path.read_bytes()
        path.write_bytes(wrong)
        with pytest.raises(DamagedChunk):
            await quick(world.transfer(world.second)).fetch(image_id, tmp_path / "copy", quiet)
        path.write_bytes(good)
    await world.transfer(world.second).fetch(image_id, tmp_path / "copy", quiet)


async def test_a_host_gets_the_keys_of_the_owners_whose_images_it_may_read(world: World, rootfs: Path):
    async def key(player: object, image_id: object, **headers: str) -> httpx2.Response:
        host = getattr(world, str(player))
        async with httpx2.AsyncClient(base_url=world.url) as api:
            return await api.get(
                f"/v1/hosts/{host.host_id}/images/{image_id}",
                headers={"X-Host-Token": host.token, **headers},
            )

    of_ada, _ = await world.uploaded(rootfs, world.of_ada, world.team(world.ada))
    of_platform, _ = await world.uploaded(rootfs, team_id=PLATFORM)
    sealed = {"X-Host-Opens-Sealed": "1"}
    theirs = (await key("of_ada", of_ada, **sealed)).json()["key"]
    platforms = (await key("of_ada", of_platform, **sealed)).json()["key"]
    assert theirs["id"] == platforms["id"]
    assert theirs["secret"] != platforms["secret"]
    assert _OLD not in (theirs["secret"], platforms["secret"])
    assert (await key("of_eve", of_ada, **sealed)).status_code == 404
    assert (await key("of_eve", of_platform, **sealed)).json()["key"] == platforms
    # A release that would send or take what it has as it is.
    answer = await key("host", of_platform)
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "invalid_request")
    assert "upgrade the host" in answer.json()["error"]["message"]


async def test_garbage_is_collected_by_its_encrypted_names(world: World, rootfs: Path, tmp_path: Path):
    kept, _ = await world.uploaded(rootfs, team_id=world.team(world.eve))
    other = tmp_path / "other"
    other.write_bytes(os.urandom(3 * MIB))
    gone, _ = await world.uploaded(other, team_id=world.team(world.eve))
    owner = str(world.team(world.eve))
    before = await world.keys(owner)
    await world.retire(gone)
    await settle(world)
    after = await world.keys(owner)
    assert after < before
    assert len(before) - len(after) == 4
    await world.transfer(world.second).fetch(kept, tmp_path / "copy", quiet)


async def test_keys_are_exchanged_and_a_missing_one_is_named(
    world: World, rootfs: Path, tmp_path: Path, key_file: Path
):
    """The stores of objects and images are those of a replica that was started with other keys."""
    images, control = world.plane.control.images, world.plane.control
    old = control.objects.keys
    image_id, _ = await world.uploaded(rootfs)
    key_file.write_text(f"{_NEW}\n{_OLD}\n")
    both = StoreKeys.from_file(str(key_file))
    key_file.write_text(f"{_NEW}\n")
    new = StoreKeys.from_file(str(key_file))
    try:
        control.objects.keys, images.key_id = both, both.current
        await world.transfer(world.second).fetch(image_id, tmp_path / "one", quiet)
        again, sent_b = await world.uploaded(rootfs)
        assert sent_b > 2 * MIB, "under the new key it is stored anew"
        assert (await world.row(again)).key_id == new.current != (await world.row(image_id)).key_id
        control.objects.keys = new
        await world.transfer(world.second).fetch(again, tmp_path / "two", quiet)
        with pytest.raises(StoreUnavailable, match=f"encrypted with the key {old.current}"):
            await quick(world.transfer(world.second)).fetch(image_id, tmp_path / "three", quiet)
        # What is in the store is not known: nothing is deleted.
        keys = await world.keys("platform")
        await world.retire(again)
        await settle(world)
        assert {key for key in keys if "chunks" in key} <= await world.keys("platform")
    finally:
        control.objects.keys, images.key_id = old, old.current


async def test_archives_of_builds_are_encrypted_too(world: World):
    store = world.plane.control.objects
    key = f"{world.ada.team_id}/uploads/bld-x"
    await store.put(key, b"CONFIDENTIAL")
    stored = (world.folder / key).read_bytes()
    assert stored.startswith(MAGIC)
    assert b"CONFIDENTIAL" not in stored
    assert await store.get(key, limit_b=12) == b"CONFIDENTIAL"
    (world.folder / f"{key}-2").write_bytes(stored)
    with pytest.raises(StoreUnavailable, match="is another one"):
        await store.get(f"{key}-2", limit_b=12)


async def test_a_file_that_is_no_file_of_keys_is_refused(tmp_path: Path):
    path = tmp_path / "keys"
    for content in (b"", b"# nothing\n", b"12\n", b"g" * 64, _OLD.encode() + b"0", b"\xff" * 64):
        path.write_bytes(content)
        with pytest.raises(InvalidRequest, match="WRENN_STORE_KEY") as refusal:
            StoreKeys.from_file(str(path))
        assert _OLD not in str(refusal.value)
    with pytest.raises(InvalidRequest, match="cannot be read"):
        StoreKeys.from_file(str(tmp_path / "none"))
    assert StoreKeys.from_file("").current is None


async def test_a_key_of_the_wire_is_checked():
    good = {"id": "ab" * 8, "secret": "cd" * 32}
    key = ObjectKey.from_json(good)
    assert key is not None
    assert key.to_json() == good
    assert "cd" * 32 not in repr(key)
    assert ObjectKey.from_json(None) is None
    wrong: list[object] = [
        {},
        [],
        "x",
        {**good, "id": "AB" * 8},
        {**good, "secret": "cd" * 31},
        {"id": "ab" * 8, "secret": 1},
    ]
    for bad in wrong:
        with pytest.raises(InvalidRequest):
            ObjectKey.from_json(bad)
