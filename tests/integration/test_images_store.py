"""Images between hosts and the store: a real control plane, a real agent's transfer, a folder and a real S3 server as stores."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import logging
import os
import random
import time
from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
import pytest_asyncio
from sqlalchemy import text

from tests.s3_server import S3Server, s3_server
from wrenn.agent.enrolment import Credentials
from wrenn.agent.images.transfer import ImageTransfer, TransferSettings
from wrenn.base.clock import SystemClock
from wrenn.base.errors import (
    AgentFailure,
    DeadlineExceeded,
    NotFound,
    RateLimited,
    StorageFull,
    StoreUnavailable,
    Unavailable,
)
from wrenn.base.faults import arm_faults
from wrenn.base.ids import HostId, ImageId, TeamId
from wrenn.base.secrets import Secret
from wrenn.base.units import MIB
from wrenn.control.images import retire_images
from wrenn.control.images.chunk_collection import ChunkCollection
from wrenn.control.images.records import chunk_key
from wrenn.control.images.store import REMOVALS
from wrenn.control.objects import ObjectStore, StoreSettings, UrlSigner
from wrenn.control.settings import Settings
from wrenn.linux.command import run
from wrenn.protocol.image_manifest import Manifest, digest_of
from wrenn.storage.objects import DamagedChunk, compress

from .conftest import (
    ControlPlane,
    client,
    environment_of,
    make_team,
    own_database,
    refused,
    run_sql,
    running_control_plane,
)
from .host_agents import AgentPlayer, registered
from .people import Person, make_admin, sign_up

pytestmark = pytest.mark.asyncio(loop_scope="module")

SIZE_B = 12 * MIB + 12_345
PLATFORM = None


@pytest.fixture(scope="module")
def s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    with s3_server(tmp_path_factory.mktemp("s3")) as server:
        yield server


@dataclass
class World:
    """A control plane with a store, hosts of the platform and of a team."""

    plane: ControlPlane
    url: str
    root: Person
    ada: Person
    eve: Person
    host: AgentPlayer
    second: AgentPlayer
    of_ada: AgentPlayer
    of_eve: AgentPlayer
    s3: S3Server | None
    folder: Path

    def team(self, person: Person) -> TeamId:
        return TeamId.parse(person.team_id)

    def transfer(self, player: AgentPlayer, *, reserve_b: int = 0, url: str | None = None) -> ImageTransfer:
        credentials = Credentials(
            control_url=url or self.url,
            host_id=player.host_id,
            address=player.address,
            token=player.token,
            refresh_token="",
            key_pem="",
            cert_pem="",
            ca_cert_pem="",
            issued_at_unix=0,
            expires_at_unix=1e12,
        )
        return ImageTransfer(TransferSettings("", None, reserve_b), lambda: credentials)

    async def begin(self, player: AgentPlayer, team_id: TeamId | None = PLATFORM) -> ImageId:
        images = self.plane.control.images
        host_id = HostId.parse(player.host_id)
        return await self.plane.control.database.transaction(lambda tx: images.begin(tx, team_id, host_id))

    async def publish(self, image_id: ImageId) -> int:
        images = self.plane.control.images
        return await self.plane.control.database.transaction(
            lambda tx: images.publish(tx, image_id, disk_size_mb=16)
        )

    async def retire(self, *image_ids: ImageId) -> None:
        await self.plane.control.database.transaction(lambda tx: retire_images(tx, image_ids))

    async def uploaded(
        self, rootfs: Path, player: AgentPlayer | None = None, team_id: TeamId | None = PLATFORM
    ) -> tuple[ImageId, int]:
        """An image that is ready, and how many bytes that cost."""
        player = player or self.host
        image_id = await self.begin(player, team_id)
        with self.plane.control.images.renewing_lease(image_id):
            sent_b = await self.transfer(player).upload(image_id, rootfs, quiet)
            await self.publish(image_id)
        return image_id, sent_b

    async def keys(self, owner: str) -> set[str]:
        return {found.key async for page in self.plane.control.objects.pages(owner) for found in page}

    def object_path(self, key: str) -> Path:
        return self.folder / key if self.s3 is None else self.s3.object_path(key)

    async def row(self, image_id: ImageId) -> Any:
        found = await self.plane.control.database.execute(
            text("SELECT * FROM images WHERE id = :id"), {"id": image_id.value}
        )
        return found.one_or_none()


def quiet(done_b: int, total_b: int) -> None:
    assert 0 <= done_b <= total_b


@contextlib.asynccontextmanager
async def running_world(
    data_dir: Path, template_url: str, folder: Path, s3: S3Server | None, **more: str
) -> AsyncGenerator[World]:
    """Start the control plane on this store, with further settings."""
    environment = {"WRENN_STORE": folder.as_uri()} if s3 is None else dict(s3.environment)
    environment |= more
    with pytest.MonkeyPatch.context() as patch:
        for name, value in environment.items():
            patch.setenv(name, value)
        async with own_database(template_url) as database_url:
            # The sweep is called by the tests; leases are long, except where a test ends one.
            settings = replace(
                Settings.from_environment({**environment_of(data_dir, database_url), **environment}),
                lease_s=600.0,
                host_interval_s=3600.0,
            )
            key = await make_team(database_url, "ada")
            async with running_control_plane(settings, key) as plane:
                root = await sign_up(plane.url, None, "Root")
                await make_admin(database_url, root)
                ada, eve = await sign_up(plane.url, None, "Ada"), await sign_up(plane.url, None, "Eve")
                for person in (ada, eve):
                    path = f"/v1/admin/teams/{person.team_id}/byoc"
                    assert (await root.put(path, {"enabled": True})).status_code == 204
                yield World(
                    plane,
                    plane.url,
                    root,
                    ada,
                    eve,
                    await registered(root),
                    await registered(root),
                    await registered(ada, type="byoc", team_id=ada.team_id),
                    await registered(eve, type="byoc", team_id=eve.team_id),
                    s3,
                    folder,
                )


@pytest_asyncio.fixture(scope="module", loop_scope="module", params=["file", "s3"])
async def world(
    request: pytest.FixtureRequest,
    data_dir: Path,
    pki: Path,
    template_url: str,
    tmp_path_factory: pytest.TempPathFactory,
) -> AsyncIterator[World]:
    s3: S3Server | None = request.getfixturevalue("s3") if request.param == "s3" else None
    async with running_world(data_dir, template_url, tmp_path_factory.mktemp("store"), s3) as started:
        yield started


@pytest.fixture
def rootfs(tmp_path: Path) -> Path:
    """A sparse file with some content that no other test has, a repeated chunk and zeros."""
    path = tmp_path / "rootfs"
    with path.open("wb") as file:
        file.truncate(SIZE_B)
        for at in (0, 3 * MIB + 100, SIZE_B - 5000):
            file.seek(at)
            file.write(os.urandom(5000))
        repeated = os.urandom(MIB)
        for index in (5, 6):
            file.seek(index * MIB)
            file.write(repeated)
        file.seek(8 * MIB)
        file.write(bytes(MIB))
    return path


def sha(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


async def test_an_image_goes_from_one_host_to_another(world: World, rootfs: Path, tmp_path: Path):
    steps: list[int] = []
    image_id, sent_b = await world.uploaded(rootfs)
    await world.transfer(world.second).fetch(
        image_id, tmp_path / "copy", lambda done, _total: steps.append(done)
    )
    assert sha(tmp_path / "copy") == sha(rootfs)
    assert steps == sorted(steps)
    assert (tmp_path / "copy").stat().st_blocks * 512 <= 6 * MIB, "holes and zeros are holes again"
    row = await world.row(image_id)
    assert (row.status, row.stored_bytes) == ("ready", sent_b)
    assert MIB < sent_b < 2 * MIB


async def test_what_the_store_has_is_not_sent_again(world: World, rootfs: Path, tmp_path: Path):
    _, first_b = await world.uploaded(rootfs)
    changed = tmp_path / "changed"
    changed.write_bytes(rootfs.read_bytes())
    with changed.open("r+b") as file:
        file.seek(10 * MIB)
        file.write(os.urandom(1000))
    second, second_b = await world.uploaded(changed, world.second)
    assert 1000 <= second_b < 3000 < first_b
    _, again_b = await world.uploaded(changed)
    assert again_b == 0
    await world.transfer(world.second).fetch(second, tmp_path / "copy", quiet)
    assert sha(tmp_path / "copy") == sha(changed)


async def test_owners_share_no_chunks(world: World, rootfs: Path):
    """Whether another team has certain data is not visible in what an upload sends."""
    _, ours_b = await world.uploaded(rootfs, team_id=world.team(world.ada))
    _, theirs_b = await world.uploaded(rootfs, team_id=world.team(world.eve))
    assert ours_b == theirs_b > 0


async def test_two_uploads_of_the_same_content_at_once(world: World, rootfs: Path, tmp_path: Path):
    (first, _), (second, _) = await asyncio.gather(
        world.uploaded(rootfs), world.uploaded(rootfs, world.second)
    )
    for number, image_id in enumerate((first, second)):
        await world.transfer(world.host).fetch(image_id, tmp_path / str(number), quiet)
        assert sha(tmp_path / str(number)) == sha(rootfs)


async def test_a_damaged_missing_or_swapped_chunk_is_found(world: World, rootfs: Path, tmp_path: Path):
    image_id, _ = await world.uploaded(rootfs)
    first = digest_of(rootfs.read_bytes()[:MIB])
    key, objects = chunk_key("platform", first), world.plane.control.objects
    good = await objects.get_stored(key, limit_b=2 * MIB)
    wrong = {
        "altered": good[:-2] + bytes([good[-2] ^ 1]) + good[-1:],
        "cut": good[:-1],
        "another chunk": compress(os.urandom(MIB)),
        "a bomb": compress(bytes(64 * MIB)),
        "too long": os.urandom(3 * MIB),
    }
    for name, data in wrong.items():
        await objects.put_stored(key, data)
        with pytest.raises(AgentFailure) as caught:
            await quick(world.transfer(world.second)).fetch(image_id, tmp_path / "copy", quiet)
        assert name == "too long" or isinstance(caught.value, DamagedChunk), name
        assert not (tmp_path / "copy").exists()
        # The host has reported it, so it is not there any more for whoever has it.
        assert await objects.size_of(key) is None, name
    with pytest.raises(StoreUnavailable):
        await quick(world.transfer(world.second)).fetch(image_id, tmp_path / "copy", quiet)
    other, sent_b = await world.uploaded(rootfs)
    assert sent_b == len(good)
    # That heals every image that has it.
    for each in (image_id, other):
        await world.transfer(world.second).fetch(each, tmp_path / f"copy-{each}", quiet)
        assert sha(tmp_path / f"copy-{each}") == sha(rootfs)


async def test_a_report_of_a_chunk_is_not_relied_on(world: World, rootfs: Path):
    """A host whose own memory or network is bad must not have good chunks deleted, nor one team's host look at another's."""
    image_id, _ = await world.uploaded(rootfs, world.of_ada, world.team(world.ada))
    digest = digest_of(rootfs.read_bytes()[:MIB])
    there = await world.keys(world.ada.team_id)

    async def reported(player: AgentPlayer, digests: list[str]) -> Any:
        path = f"/v1/hosts/{player.host_id}/images/{image_id}/damaged-chunks"
        async with client(world.url, None) as api:
            return await api.post(path, json={"digests": digests}, headers={"X-Host-Token": player.token})

    for player in (world.of_ada, world.second):
        answer = await reported(player, [digest, "ab" * 32])
        assert answer.json() == {"removed": 0}
    refused(await reported(world.of_eve, [digest]), 404, "not_found")
    refused(await reported(world.of_ada, []), 400, "invalid_request")
    refused(await reported(world.of_ada, [digest] * 9), 400, "invalid_request")
    assert await world.keys(world.ada.team_id) == there


async def test_an_altered_manifest_is_refused(world: World, rootfs: Path, tmp_path: Path):
    image_id, _ = await world.uploaded(rootfs)
    row = await world.row(image_id)
    path = world.object_path(f"platform/images/{image_id}/{row.manifest_digest}.json")
    good = path.read_bytes()
    path.write_bytes(good.replace(b'"format":1', b'"format":2'))
    with pytest.raises(DamagedChunk):
        await world.transfer(world.second).fetch(image_id, tmp_path / "copy", quiet)
    # What its chunks are is not known: nothing of the owner is deleted, though there is something to delete.
    unnamed = chunk_key("platform", "ee" * 32)
    await world.plane.control.objects.put(unnamed, b"1")
    await settle(world)
    assert unnamed in await world.keys("platform")
    path.write_bytes(good)
    await settle(world)
    assert unnamed not in await world.keys("platform")


def quick(transfer: ImageTransfer) -> ImageTransfer:
    """The same with short pauses."""
    transfer.first_pause_s = 0.01
    return transfer


async def test_a_chunk_that_was_damaged_on_the_way_is_fetched_once_more(
    world: World, rootfs: Path, tmp_path: Path
):
    image_id, _ = await world.uploaded(rootfs)
    path = world.object_path(chunk_key("platform", digest_of(rootfs.read_bytes()[:MIB])))
    good = path.read_bytes()
    path.write_bytes(good[:-1])
    transfer = world.transfer(world.second)
    transfer.first_pause_s = 1.0
    fetch = asyncio.create_task(transfer.fetch(image_id, tmp_path / "copy", quiet))
    await asyncio.sleep(0.6)
    path.write_bytes(good)
    await fetch
    assert sha(tmp_path / "copy") == sha(rootfs)


async def test_the_disk_of_the_host_keeps_its_reserve(world: World, rootfs: Path, tmp_path: Path):
    image_id, _ = await world.uploaded(rootfs)
    with pytest.raises(StorageFull):
        await world.transfer(world.second, reserve_b=1 << 60).fetch(image_id, tmp_path / "copy", quiet)
    assert list(tmp_path.iterdir()) == [rootfs]


async def test_who_may_read_and_who_may_upload(world: World, rootfs: Path, tmp_path: Path):
    """A host of the platform reads all; a team's own host those of its team and the platform; only the maker uploads."""
    of_platform, _ = await world.uploaded(rootfs)
    of_ada, _ = await world.uploaded(rootfs, world.of_ada, world.team(world.ada))
    for image_id, player, may in (
        (of_platform, world.second, True),
        (of_platform, world.of_eve, True),
        (of_ada, world.second, True),
        (of_ada, world.of_ada, True),
        (of_ada, world.of_eve, False),
        (ImageId.new(), world.second, False),
    ):
        fetching = quick(world.transfer(player)).fetch(image_id, tmp_path / "copy", quiet)
        if may:
            await fetching
            (tmp_path / "copy").unlink()
        else:
            with pytest.raises(NotFound):
                await fetching
    pending = await world.begin(world.of_ada, world.team(world.ada))
    for player in (world.second, world.of_eve):
        with pytest.raises(NotFound):
            await world.transfer(player).upload(pending, rootfs, quiet)
    with pytest.raises(NotFound):
        await world.transfer(world.of_ada).fetch(pending, tmp_path / "copy", quiet)
    with pytest.raises(NotFound):
        await world.transfer(world.host).upload(of_platform, rootfs, quiet)
    await world.plane.control.images.give_up(pending)
    with pytest.raises(NotFound):
        await world.transfer(world.of_ada).upload(pending, rootfs, quiet)


async def test_bad_input_of_a_host_is_refused_and_changes_nothing(world: World, rootfs: Path):
    image_id = await world.begin(world.host)
    path = f"/v1/hosts/{world.host.host_id}/images/{image_id}"
    manifest = Manifest(image_id, MIB, ("ab" * 32,))
    async with client(world.url, None) as api:
        api.headers["X-Host-Token"] = world.host.token
        for digests in (
            [],
            ["x"],
            ["AB" * 32],
            ["../" + "a" * 61],
            ["ab" * 32 + "\n"],
            ["ab" * 32] * 257,
            "x",
        ):
            refused(await api.post(f"{path}/upload-urls", json={"digests": digests}), 400, "invalid_request")
        refused(await api.put(f"{path}/manifest", content=b"{}"), 400, "invalid_request")
        other = replace(manifest, image_id=ImageId.new())
        refused(await api.put(f"{path}/manifest", content=other.encode()), 400, "invalid_request")
        refused(await api.put(f"{path}/manifest", content=bytes(21 * MIB)), 413, "too_large")
        refused(await api.put(f"{path}/manifest", content=manifest.encode()), 409, "conflict")
        refused(await api.get(f"/v1/hosts/{world.host.host_id}/images/img-x"), 400, "invalid_request")
        elsewhere = f"/v1/hosts/{world.second.host_id}/images/{image_id}"
        refused(await api.get(elsewhere), 403, "forbidden")
        row = await world.row(image_id)
        assert (row.status, row.manifest_digest) == ("pending", None)
    with pytest.raises(Unavailable):
        await world.publish(image_id)
    await world.plane.control.images.give_up(image_id)


async def test_a_kill_between_chunks_and_manifest_leaves_nothing(world: World, rootfs: Path):
    """The image stays pending, its lease ends, and the next sweep leaves neither row nor object."""
    world_before = await world.keys("platform")
    image_id = await world.begin(world.host)
    arm_faults("control.image.after_manifest=error")
    try:
        with pytest.raises(Unavailable):
            await quick(world.transfer(world.host)).upload(image_id, rootfs, quiet)
    finally:
        arm_faults("")
    assert len(await world.keys("platform")) > len(world_before)
    assert (await world.row(image_id)).manifest_digest is None
    await run_sql(
        str(world.plane.settings.database_url),
        f"UPDATE images SET lease_until = now() - interval '1 s' WHERE id = '{image_id.value}'",
    )
    await settle(world)
    assert await world.row(image_id) is None
    assert await world.keys("platform") <= world_before


async def settle(world: World) -> None:
    """Sweep as if there were no hosts: nobody listens at the addresses of those here."""
    sweep = world.plane.control.image_sweep
    url = str(world.plane.settings.database_url)
    await run_sql(url, "UPDATE hosts SET provider = address, address = ''")
    try:
        await sweep.sweep_once()
        await sweep.sweep_once()
    finally:
        await run_sql(url, "UPDATE hosts SET address = provider, provider = ''")


async def test_what_no_image_names_is_deleted_and_what_one_names_stays(
    world: World, rootfs: Path, tmp_path: Path
):
    kept, _ = await world.uploaded(rootfs, team_id=world.team(world.ada))
    changed = tmp_path / "changed"
    changed.write_bytes(rootfs.read_bytes())
    with changed.open("r+b") as file:
        file.write(os.urandom(1000))
    gone, _ = await world.uploaded(changed, team_id=world.team(world.ada))
    before = await world.keys(world.ada.team_id)
    await world.retire(gone)
    await settle(world)
    after = await world.keys(world.ada.team_id)
    assert await world.row(gone) is None
    assert len(before - after) == 2, "one chunk and one manifest"
    assert not {key for key in after if str(gone) in key}
    await world.transfer(world.second).fetch(kept, tmp_path / "copy", quiet)
    assert sha(tmp_path / "copy") == sha(rootfs)


async def test_an_image_that_something_uses_stays_in_store_and_database(
    world: World, rootfs: Path, tmp_path: Path
):
    image_id, _ = await world.uploaded(rootfs)
    url = str(world.plane.settings.database_url)
    await run_sql(
        url,
        "INSERT INTO templates (id, sandbox_id, team_id, host_id, name, image, vcpus, memory_mb, disk_size_mb, status)"
        f" SELECT gen_random_uuid(), gen_random_uuid(), teams.id, hosts.id, 'uses-it', '{image_id}', 1, 256, 5120, 'ready'"
        " FROM teams, hosts LIMIT 1",
    )
    await world.retire(image_id)
    await settle(world)
    assert (await world.row(image_id)).status == "removing"
    await world.transfer(world.second).fetch(image_id, tmp_path / "copy", quiet)
    await run_sql(url, "DELETE FROM templates WHERE name = 'uses-it'")
    await settle(world)
    assert await world.row(image_id) is None


async def test_a_host_that_is_off_holds_up_no_removal(world: World, rootfs: Path):
    """What it still has is removed when it answers again, as an image without a row."""
    image_id, _ = await world.uploaded(rootfs, team_id=world.team(world.ada))
    await world.retire(image_id)
    url = str(world.plane.settings.database_url)
    await run_sql(url, "UPDATE hosts SET is_reachable = false")
    try:
        await world.plane.control.image_sweep.sweep_once()
    finally:
        await run_sql(url, "UPDATE hosts SET is_reachable = true")
    assert await world.row(image_id) is None


async def test_images_that_cannot_go_yet_do_not_hide_the_others(world: World, rootfs: Path):
    """A thousand that paused sandboxes or snapshots use, however many rounds that takes."""
    url = str(world.plane.settings.database_url)
    used = [ImageId(UUID(int=number)) for number in range(1, REMOVALS + 1)]
    rows = ", ".join(f"('{image_id.value}'::uuid, '{image_id}')" for image_id in used)
    await run_sql(
        url,
        f"WITH used (id, name) AS (VALUES {rows}),"
        " made AS (INSERT INTO images (id, status) SELECT id, 'removing' FROM used)"
        " INSERT INTO templates (id, sandbox_id, team_id, host_id, name, image, vcpus, memory_mb, disk_size_mb, status)"
        " SELECT used.id, used.id, team.id, host.id, 'uses-' || used.id, used.name, 1, 256, 5120, 'ready'"
        " FROM used, (SELECT id FROM teams LIMIT 1) AS team, (SELECT id FROM hosts LIMIT 1) AS host",
    )
    try:
        image_id, _ = await world.uploaded(rootfs, team_id=world.team(world.ada))
        await world.retire(image_id)
        await settle(world)
        assert await world.row(image_id) is None
        found = await world.plane.control.database.execute(
            text("SELECT count(*) FROM images WHERE status = 'removing'")
        )
        assert found.scalar_one() >= REMOVALS
    finally:
        await run_sql(url, "DELETE FROM templates WHERE name LIKE 'uses-%'")
        await run_sql(url, f"DELETE FROM images WHERE id <= '{used[-1].value}'")


async def test_an_empty_chunk_is_written_again_by_the_next_upload(world: World, rootfs: Path, tmp_path: Path):
    """As a folder may have one after a power failure: it would damage every image with this content."""
    await world.uploaded(rootfs)
    path = world.object_path(chunk_key("platform", digest_of(rootfs.read_bytes()[:MIB])))
    path.write_bytes(b"")
    image_id, sent_b = await world.uploaded(rootfs)
    assert sent_b > 0
    await world.transfer(world.second).fetch(image_id, tmp_path / "copy", quiet)
    assert sha(tmp_path / "copy") == sha(rootfs)


async def test_hosts_that_send_manifests_slowly_hold_up_no_other(world: World, rootfs: Path):
    stalled: list[asyncio.StreamWriter] = []
    server, _, port = world.url.removeprefix("http://").partition(":")
    try:
        for player, owner in (
            (world.host, PLATFORM),
            (world.second, PLATFORM),
            (world.of_ada, world.team(world.ada)),
            (world.of_eve, world.team(world.eve)),
        ):
            image_id = await world.begin(player, owner)
            for _ in range(2):
                _, writer = await asyncio.open_connection(server, int(port))
                stalled.append(writer)
                path = f"/v1/hosts/{player.host_id}/images/{image_id}/manifest"
                head = [f"PUT {path} HTTP/1.1", f"Host: {server}", f"X-Host-Token: {player.token}"]
                writer.write("\r\n".join([*head, "Content-Length: 1000", "", "{"]).encode())
        await asyncio.sleep(0.5)
        another = await registered(world.root)
        async with asyncio.timeout(15):
            await world.uploaded(rootfs, another)
        image_id = await world.begin(world.host)
        with pytest.raises(RateLimited):
            await quick(world.transfer(world.host)).upload(image_id, rootfs, quiet)
    finally:
        for writer in stalled:
            writer.transport.abort()


async def test_large_manifests_are_checked_by_lists(
    world: World, rootfs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("wrenn.control.objects.store._LISTED_FROM", 2)
    image_id, sent_b = await world.uploaded(rootfs)
    assert (await world.row(image_id)).stored_bytes == sent_b
    assert (await world.uploaded(rootfs))[1] == 0
    await world.transfer(world.second).fetch(image_id, tmp_path / "copy", quiet)
    assert sha(tmp_path / "copy") == sha(rootfs)


async def test_a_teams_own_host_writes_through_the_control_plane_and_not_without_end(
    world: World, rootfs: Path, tmp_path: Path
):
    """By a URL of S3 it could put objects of any size; a host of the platform gets such URLs."""
    team_id, asked = world.team(world.ada), partial(upload_urls, world)
    image_id = await world.begin(world.of_ada, team_id)
    (url,) = (await asked(world.of_ada, image_id, 1)).json()["urls"].values()
    assert url.startswith("/v1/store/")
    async with client(world.url, None) as api:
        refused(await api.put(url, content=bytes(2 * MIB + 1)), 413, "too_large")
    of_platform = await world.begin(world.second, team_id)
    (url,) = (await asked(world.second, of_platform, 1)).json()["urls"].values()
    assert url.startswith("/v1/store/") == (world.s3 is None)

    # The first one was counted, and not that of the platform's host.
    assert (await world.row(image_id)).stored_bytes == MIB
    assert (await world.row(of_platform)).stored_bytes == 0
    assert (await asked(world.of_ada, image_id, 29)).status_code == 200
    assert (await world.row(image_id)).stored_bytes == 30 * MIB
    await world.plane.control.database.execute(
        text("UPDATE images SET stored_bytes = :taken WHERE id IN (:one, :other)"),
        {"taken": 10**13, "one": image_id.value, "other": of_platform.value},
    )
    refused(await asked(world.of_ada, image_id, 1), 413, "too_large")
    assert (await asked(world.second, of_platform, 1)).status_code == 200
    for each in (image_id, of_platform):
        await world.plane.control.images.give_up(each)
    # It counts for one image, and what that has is counted anew.
    image_id, sent_b = await world.uploaded(rootfs, world.of_ada, team_id)
    assert (await world.row(image_id)).stored_bytes == sent_b
    await world.transfer(world.of_ada).fetch(image_id, tmp_path / "copy", quiet)
    assert sha(tmp_path / "copy") == sha(rootfs)


async def test_a_teams_own_hosts_write_for_several_images_what_its_quota_permits(world: World):
    team_id, asked = world.team(world.ada), partial(upload_urls, world, world.of_ada)
    database = world.plane.control.database
    await database.execute(
        text("INSERT INTO team_limits (team_id, snapshot_mb) VALUES (:team, 40)"), {"team": team_id.value}
    )
    first, second = [await world.begin(world.of_ada, team_id) for _ in range(2)]
    assert (await asked(first, 30)).status_code == 200
    assert (await asked(second, 5)).status_code == 200
    refused(await asked(second, 6), 429, "rate_limited")
    assert (await asked(second, 5)).status_code == 200
    # One image can always be uploaded: how much of it is left when it is compressed is not known before.
    assert (await asked(first, 30)).status_code == 200
    refused(await asked(second, 1), 429, "rate_limited")
    await world.plane.control.images.give_up(first)
    assert (await asked(second, 60)).status_code == 200
    await world.plane.control.images.give_up(second)
    await database.execute(text("DELETE FROM team_limits WHERE team_id = :team"), {"team": team_id.value})


async def test_an_upload_waits_until_another_of_its_team_has_ended(
    world: World, rootfs: Path, caplog: pytest.LogCaptureFixture
):
    """However long the other one takes, which is longer than a control plane that does not answer is waited for."""
    team_id = world.team(world.ada)
    database = world.plane.control.database
    await database.execute(
        text("INSERT INTO team_limits (team_id, snapshot_mb) VALUES (:team, 40)"), {"team": team_id.value}
    )
    other, image_id = [await world.begin(world.of_ada, team_id) for _ in range(2)]
    assert (await upload_urls(world, world.of_ada, other, 40)).status_code == 200
    with caplog.at_level(logging.DEBUG, logger=ImageTransfer.__module__):
        upload = quick(world.transfer(world.of_ada)).upload(image_id, rootfs, quiet)
        uploading = asyncio.create_task(upload)
        async with asyncio.timeout(60):
            while len(caplog.records) < 7 and not uploading.done():
                await asyncio.sleep(0.05)
    assert not uploading.done()
    await world.plane.control.images.give_up(other)
    async with asyncio.timeout(60):
        assert await uploading > 0
    await world.plane.control.images.give_up(image_id)
    await database.execute(text("DELETE FROM team_limits WHERE team_id = :team"), {"team": team_id.value})


async def upload_urls(world: World, player: AgentPlayer, image_id: ImageId, chunks: int) -> Any:
    """Ask for URLs of so many chunks that the store lacks."""
    path = f"/v1/hosts/{player.host_id}/images/{image_id}/upload-urls"
    digests = [digest_of(os.urandom(8)) for _ in range(chunks)]
    async with client(world.url, None) as api:
        return await api.post(path, json={"digests": digests}, headers={"X-Host-Token": player.token})


async def test_an_image_that_is_not_uploaded_holds_up_no_collection(world: World, rootfs: Path):
    """As the base of a build, which is being made for half an hour perhaps."""
    images, team_id = world.plane.control.images, world.team(world.ada)
    gone, _ = await world.uploaded(rootfs, team_id=team_id)
    host_id = HostId.parse(world.host.host_id)
    base = await world.plane.control.database.transaction(
        lambda tx: images.begin(tx, team_id, host_id, is_uploaded=False)
    )
    before = await world.keys(world.ada.team_id)
    await world.retire(gone)
    await settle(world)
    assert len(await world.keys(world.ada.team_id)) < len(before)
    assert (await world.row(base)).status == "pending"
    with pytest.raises(NotFound):
        await world.transfer(world.host).upload(base, rootfs, quiet)
    await images.give_up(base)


async def test_nothing_is_collected_while_an_image_is_being_uploaded(
    world: World, rootfs: Path, tmp_path: Path
):
    """The upload finds chunks of an image that goes at the same moment; they must be there in the end."""
    old, _ = await world.uploaded(rootfs)
    image_id = await world.begin(world.second)
    await world.retire(old)
    sweeping = asyncio.create_task(settle(world))
    assert await world.transfer(world.second).upload(image_id, rootfs, quiet) == 0
    await sweeping
    await world.publish(image_id)
    assert await world.row(old) is None
    await settle(world)
    await world.transfer(world.second).fetch(image_id, tmp_path / "copy", quiet)
    assert sha(tmp_path / "copy") == sha(rootfs)


async def test_an_image_whose_upload_begins_late_ends_a_collection_under_way(
    world: World, rootfs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """As an import, which is uploaded when it is there: it finds chunks that the collection is about to delete."""
    control, person = world.plane.control, await sign_up(world.url, None, "Late")
    team_id = world.team(person)
    host_id = HostId.parse(world.host.host_id)
    old, _ = await world.uploaded(rootfs, team_id=team_id)
    image_id = await control.database.transaction(
        lambda tx: control.images.begin(tx, team_id, host_id, is_uploaded=False)
    )
    list_folders = control.objects.folders

    async def folders(prefix: str | None = None) -> list[str]:
        """List them as always; by now the rows of images have been read."""
        await control.images.begin_upload(image_id, host_id, retry_s=0)
        assert await world.transfer(world.host).upload(image_id, rootfs, quiet) == 0
        return await list_folders(prefix)

    monkeypatch.setattr(control.objects, "folders", folders)
    with control.images.renewing_lease(image_id):
        await control.database.execute(text("DELETE FROM images WHERE id = :id"), {"id": old.value})
        await ChunkCollection(control.database, control.objects).collect(person.team_id)
        await world.publish(image_id)
    await world.transfer(world.second).fetch(image_id, tmp_path / "copy", quiet)
    assert sha(tmp_path / "copy") == sha(rootfs)
    with pytest.raises(Unavailable):
        await control.images.begin_upload(image_id, host_id, retry_s=0)


async def test_no_upload_begins_while_a_deletion_that_failed_may_still_be_carried_out(
    world: World, rootfs: Path, monkeypatch: pytest.MonkeyPatch
):
    """The store has not answered, and deletes a second later: an upload before would have relied on what goes."""
    control, person = world.plane.control, await sign_up(world.url, None, "Slow")
    team_id = world.team(person)
    old, _ = await world.uploaded(rootfs, team_id=team_id)
    await control.database.execute(text("DELETE FROM images WHERE id = :id"), {"id": old.value})
    delete, failed, late = control.objects.delete, asyncio.Event(), asyncio.Event()
    deletions: list[asyncio.Task[None]] = []

    async def carried_out_late(keys: list[str]) -> None:
        async def later() -> None:
            await asyncio.sleep(0.5)
            await delete(keys)
            late.set()

        deletions.append(asyncio.create_task(later()))
        failed.set()
        raise StoreUnavailable("It did not answer.")

    monkeypatch.setattr(control.objects, "delete", carried_out_late)
    collection = ChunkCollection(control.database, control.objects, late_s=3.0)
    collecting = asyncio.create_task(collection.collect(person.team_id))
    await failed.wait()
    image_id = await control.images.begin_alone(team_id, HostId.parse(world.host.host_id), retry_s=20)
    assert late.is_set()
    monkeypatch.setattr(control.objects, "delete", delete)
    with pytest.raises(StoreUnavailable):
        await collecting
    with control.images.renewing_lease(image_id):
        assert await world.transfer(world.host).upload(image_id, rootfs, quiet) > 0
        await world.publish(image_id)


async def test_uploads_and_collections_side_by_side_lose_nothing(world: World, rootfs: Path, tmp_path: Path):
    """Seeded: hosts upload one of three contents and retire images again while the store is collected all the time."""
    rng = random.Random(7)
    contents = [tmp_path / f"content{number}" for number in range(3)]
    for path in contents:
        path.write_bytes(os.urandom(30_000) + bytes(MIB) + rootfs.read_bytes()[:1000])
    live: dict[ImageId, Path] = {}
    done = asyncio.Event()

    async def collect() -> None:
        while not done.is_set():
            await world.plane.control.image_sweep.sweep_once()
            await asyncio.sleep(0)

    async def work(player: AgentPlayer) -> None:
        for _ in range(6):
            path = rng.choice(contents)
            image_id, _ = await world.uploaded(path, player, world.team(world.eve))
            live[image_id] = path
            if live and rng.random() < 0.6:
                victim = rng.choice(sorted(live))
                del live[victim]
                await world.retire(victim)

    collecting = asyncio.create_task(collect())
    try:
        await asyncio.gather(work(world.host), work(world.second))
    finally:
        done.set()
        await collecting
    await settle(world)
    for number, (image_id, path) in enumerate(sorted(live.items())):
        await world.transfer(world.host).fetch(image_id, tmp_path / f"copy{number}", quiet)
        assert sha(tmp_path / f"copy{number}") == sha(path)


async def test_the_images_of_a_team_go_with_it(world: World, rootfs: Path):
    person = await sign_up(world.url, None, "Gone")
    team = await person.post("/v1/teams", {"name": "brief"})
    team_id = TeamId.parse(team.json()["id"])
    image_id, _ = await world.uploaded(rootfs, team_id=team_id)
    assert await world.keys(str(team_id))
    there = await person.at(str(team_id))
    assert (await there.delete(f"/v1/teams/{team_id}")).status_code in (200, 204)
    await settle(world)
    assert await world.row(image_id) is None
    assert await world.keys(str(team_id)) == set()


async def test_a_signed_url_is_for_one_object_one_method_and_a_time(world: World, rootfs: Path):
    image_id, _ = await world.uploaded(rootfs)
    digest = digest_of(rootfs.read_bytes()[:MIB])
    path = f"/v1/hosts/{world.host.host_id}/images/{image_id}/chunk-urls"
    objects = world.plane.control.objects
    async with client(world.url, None) as api:
        said = await api.post(path, json={"digests": [digest]}, headers={"X-Host-Token": world.host.token})
        url: str = said.json()["urls"][digest]
        assert said.headers["cache-control"] == "no-store"
        assert (await api.get(url)).status_code == 200
        assert (await api.put(url, content=b"x")).status_code == 403
        assert (await api.get(url.replace(digest, "0" * 64))).status_code == 403
        assert (await api.get(url.split("?", maxsplit=1)[0])).status_code in (400, 403)
        assert (await api.get(url[:-1] + ("0" if url[-1] != "0" else "1"))).status_code == 403
        (short,) = await objects.sign("GET", [chunk_key("platform", digest)], expires_s=1)
        await asyncio.sleep(2.1)
        assert (await api.get(short)).status_code == 403
        if world.s3 is None:
            key = chunk_key("platform", "ef" * 32)
            (put,) = await objects.sign("PUT", [key], expires_s=60)
            refused(await api.put(put, content=bytes(2 * MIB + 1)), 413, "too_large")
            assert (await api.put(put, content=b"x")).status_code == 204
            (got,) = await objects.sign("GET", [key], expires_s=60)
            assert (await api.get(got)).content == b"x"
            for bad in (
                "platform/../../etc/passwd",
                "/etc/passwd",
                "platform//x",
                "platform/.hidden",
                "platform",
            ):
                (signed,) = await objects.sign("GET", [bad], expires_s=60)
                assert (await api.get(signed)).status_code in (403, 404)
            await objects.delete([key])


async def test_slow_readers_of_large_objects_take_little_memory(world: World):
    """A team's own host has the signed URL of its archive, and may open as many connections as it likes."""
    if world.s3 is not None:
        pytest.skip("the store serves its objects itself")
    objects, key = world.plane.control.objects, "platform/uploads/large"
    content = os.urandom(MIB) * 20
    await objects.put(key, content)
    (url,) = await objects.sign("GET", [key], expires_s=60)
    host, _, port = world.url.removeprefix("http://").partition(":")
    before_b, writers = memory_b(), list[asyncio.StreamWriter]()
    try:
        for _ in range(64):
            reader, writer = await asyncio.open_connection(host, int(port), limit=4096)
            writers.append(writer)
            writer.write(f"GET {url} HTTP/1.1\r\nHost: {host}\r\n\r\n".encode())
            assert b" 200 " in await reader.readline()
        async with client(world.url, None) as api:
            refused(await api.get(url), 429, "rate_limited")
        assert memory_b() - before_b < 200 * MIB, "instead of 1.3 GB"
    finally:
        for writer in writers:
            writer.transport.abort()
    async with client(world.url, None) as api:
        async with asyncio.timeout(20):
            while (answer := await api.get(url)).status_code == 429:
                await asyncio.sleep(0.1)
    assert answer.status_code == 200
    assert answer.content == content
    assert answer.headers["content-length"] == str(len(content))
    await objects.delete([key])


def memory_b() -> int:
    """Of this process, in which the control plane runs."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


async def test_an_expired_url_costs_only_another_one(
    world: World, rootfs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("wrenn.control.images.host_access.URL_LIFE_S", -1.0 if world.s3 is None else 0.0)
    image_id = await world.begin(world.host)
    transfer = quick(world.transfer(world.host))
    transfer.first_pause_s = 0.3
    uploading = asyncio.create_task(transfer.upload(image_id, rootfs, quiet))
    await asyncio.sleep(0.5)
    monkeypatch.undo()
    await uploading
    await world.publish(image_id)
    await world.transfer(world.second).fetch(image_id, tmp_path / "copy", quiet)


async def test_a_store_that_does_not_answer(world: World, rootfs: Path, tmp_path: Path):
    """The hosts are told so and try again; when it is back, the upload goes on."""
    if world.s3 is None:
        pytest.skip("a folder always answers")
    image_id = await world.begin(world.host)
    world.s3.stop()
    with pytest.raises((StoreUnavailable, Unavailable, DeadlineExceeded)) as caught:
        await quick(world.transfer(world.host)).upload(image_id, rootfs, quiet)
    assert "http" not in caught.value.message
    assert world.s3.secret not in repr(caught.value.context)
    assert (await world.plane.api.get("/v1/sandboxes")).status_code == 200
    transfer = world.transfer(world.host)
    transfer.first_pause_s = 0.2
    uploading = asyncio.create_task(transfer.upload(image_id, rootfs, quiet))
    await asyncio.sleep(0.5)
    world.s3.start()
    await uploading
    await world.publish(image_id)
    await world.transfer(world.second).fetch(image_id, tmp_path / "copy", quiet)
    assert sha(tmp_path / "copy") == sha(rootfs)


async def test_a_store_with_wrong_credentials_says_so_without_them(
    world: World, monkeypatch: pytest.MonkeyPatch
):
    if world.s3 is None:
        pytest.skip("a folder has no credentials")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "another-secret")
    objects = ObjectStore(
        StoreSettings(world.plane.settings.store.url, allow_http=True),
        UrlSigner(Secret("x" * 32), SystemClock()),
    )
    with pytest.raises(StoreUnavailable, match="refuses the control plane's credentials") as caught:
        await objects.put("platform/chunks/aa/x", b"1")
    assert "another-secret" not in repr(caught.value.context)
    await objects.close()


async def test_a_store_that_is_slow_is_given_up_in_time(world: World):
    """A server that accepts and never answers."""
    if world.s3 is None:
        pytest.skip("a folder always answers")

    async def hold(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.sleep(20)
        writer.close()

    server = await asyncio.start_server(hold, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{port}")
        objects = ObjectStore(
            StoreSettings("s3://images/x", allow_http=True),
            UrlSigner(Secret("x" * 32), SystemClock()),
            timeout_s=0.5,
        )
    started = time.monotonic()
    with pytest.raises(StoreUnavailable):
        await objects.get("platform/chunks/aa/x", limit_b=10)
    assert time.monotonic() - started < 10.0
    await objects.close()
    server.close()


async def test_a_store_that_is_full_says_so_and_keeps_nothing_of_the_object(tmp_path: Path):
    """A folder on a file system of 1 MiB."""
    folder = tmp_path / "store"
    folder.mkdir()
    await run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(folder)], timeout_s=10)
    objects = ObjectStore(StoreSettings(folder.as_uri()), UrlSigner(Secret("x" * 32), SystemClock()))
    try:
        with pytest.raises(StorageFull):
            await objects.put("platform/chunks/aa/x", os.urandom(2 * MIB))
        assert await objects.size_of("platform/chunks/aa/x") is None
        await objects.put("platform/chunks/aa/y", b"1")
        assert [found.key async for page in objects.pages("platform") for found in page] == [
            "platform/chunks/aa/y"
        ]
    finally:
        await objects.close()
        await run(["umount", str(folder)], timeout_s=10)
