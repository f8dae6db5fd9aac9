"""Limits of the e2b template builder against a client that wants more than it may have."""

from __future__ import annotations

import asyncio
import gzip
import io
import os
import tarfile
from pathlib import Path
from typing import Any

import httpx2
import pytest

from tests.integration.conftest import Platform
from tests.integration.test_e2b_builder import HASH, announced, archive, ended, rows, start
from wrenn.base.errors import RateLimited
from wrenn.base.ids import TeamId
from wrenn.control.db import Database
from wrenn.control.e2b import BuilderFiles, BuilderRetention, file_store
from wrenn.control.e2b.builder_files import key_of
from wrenn.control.objects import ObjectStore

pytestmark = pytest.mark.asyncio(loop_scope="module")


async def upload(api: httpx2.AsyncClient, files_hash: str, content: bytes) -> httpx2.Response:
    url = (await api.get(f"/e2b/templates/any/files/{files_hash}")).json()["url"]
    return await api.put(url, content=content)


def copies(hashes: list[str]) -> list[dict[str, object]]:
    return [{"type": "COPY", "args": ["f*", "/tmp/"], "filesHash": each} for each in hashes]


def empty_files(count: int) -> bytes:
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w:gz", compresslevel=1) as tar:
        for number in range(count):
            tar.addfile(tarfile.TarInfo(f"f{number}"))
    return content.getvalue()


async def test_all_archives_of_a_build_together_are_within_the_limits_of_one(
    team_platform: Platform, monkeypatch: pytest.MonkeyPatch
) -> None:
    api = team_platform.api
    monkeypatch.setattr("wrenn.control.e2b.builder_files.MAX_ENTRIES", 500)
    monkeypatch.setattr("wrenn.control.e2b.builder_files.MAX_UNPACKED_B", 4 << 20)
    many = [f"{n:02x}" * 32 for n in range(4)]
    large = [f"{n:02x}" * 32 for n in range(4, 8)]
    for each in many:
        assert (await upload(api, each, empty_files(200))).status_code == 204
    for each in large:
        assert (await upload(api, each, gzip.compress(bytes(2 << 20)))).status_code == 204
    build = await announced(api)
    refused = await start(api, build, steps=copies(many))
    assert (refused.status_code, "more than 500" in refused.text) == (413, True), refused.text
    refused = await start(api, build, steps=copies(large))
    assert (refused.status_code, "unpacked" in refused.text) == (400, True), refused.text
    assert (await start(api, build, steps=copies(many[:2]))).status_code == 202
    await ended(api, build)


async def test_only_one_archive_is_unpacked_at_once(
    team_platform: Platform, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unpacked() -> int:
        """Count the temporary files of archives (without the packed one, which is not beyond its first bytes)."""
        found = 0
        for descriptor in Path("/proc/self/fd").iterdir():
            try:
                status = os.fstat(int(descriptor.name))
            except OSError:
                continue
            found += status.st_nlink == 0 and status.st_size >= size
        return found

    api = team_platform.api
    hashes = [f"{n:02x}" * 32 for n in range(5)]
    content = archive(f="a" * 3_333_333)
    size = len(gzip.decompress(content))
    for each in hashes:
        assert (await upload(api, each, content)).status_code == 204
    counts: list[int] = []
    get = ObjectStore.get

    async def counting(self: ObjectStore, key: str, *, limit_b: int) -> bytes:
        if "builder-files" in key:
            counts.append(unpacked())
        return await get(self, key, limit_b=limit_b)

    monkeypatch.setattr(ObjectStore, "get", counting)
    build = await announced(api)
    assert (await start(api, build, steps=copies(hashes))).status_code == 202
    assert counts == [0] * 5
    await ended(api, build)


async def test_a_team_cannot_upload_more_than_its_limit_and_reading_keeps_nothing(
    team_platform: Platform, monkeypatch: pytest.MonkeyPatch
) -> None:
    api = team_platform.api
    monkeypatch.setattr(BuilderFiles, "_FILES_OF_TEAM", 2)
    hashes = [f"{n:02x}" * 32 for n in range(16, 20)]
    content = archive(f="one")
    for each in hashes[:2]:
        assert (await upload(api, each, content)).status_code == 204
    refused = await upload(api, hashes[2], content)
    assert (refused.status_code, "try again later" in refused.text) == (429, True), refused.text
    assert (await upload(api, hashes[0], content)).status_code == 204, "one that is there may be replaced"
    monkeypatch.setattr(BuilderFiles, "_FILES_OF_TEAM", 100)
    monkeypatch.setattr(BuilderFiles, "_BYTES_OF_TEAM", 3 * len(content) - 1)
    assert (await upload(api, hashes[2], content)).status_code == 429
    database = Database(str(team_platform.settings.database_url))
    before = await rows(
        database, "UPDATE builder_files SET used_at = used_at - interval '2 hours' RETURNING used_at"
    )
    assert (await api.get(f"/e2b/templates/any/files/{hashes[0]}")).json()["present"]
    assert set(await rows(database, "SELECT used_at FROM builder_files")) == set(before)
    # The size of one whose upload was broken off is not known.
    await rows(database, "UPDATE builder_files SET size_bytes = NULL RETURNING 1")
    monkeypatch.setattr(BuilderFiles, "_BYTES_OF_TEAM", 200 << 20)
    assert (await upload(api, hashes[2], content)).status_code == 429
    await rows(database, "DELETE FROM builder_files RETURNING 1")
    await database.close()


async def test_uploads_at_the_same_time_are_counted_one_after_the_other(team_platform: Platform) -> None:
    database = Database(str(team_platform.settings.database_url))
    assert (await upload(team_platform.api, HASH, archive(f="one"))).status_code == 204
    team = TeamId((await rows(database, f"SELECT team_id FROM builder_files WHERE hash = '{HASH}'"))[0])

    async def begin(number: int) -> bool:
        try:
            await file_store.begin_upload(
                database, team, f"{number:064x}", 1, bytes_of_team=4 << 30, files_of_team=5
            )
        except RateLimited:
            return False
        return True

    assert sum(await asyncio.gather(*(begin(number) for number in range(12)))) == 4
    await rows(database, "DELETE FROM builder_files RETURNING 1")
    await database.close()


@pytest.mark.parametrize("moment", ["before the claim", "after the claim", "after the object"])
async def test_an_upload_during_the_deletion_of_the_same_files_is_not_lost(
    team_platform: Platform, monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    api, objects = team_platform.api, team_platform.control.services.objects
    database = Database(str(team_platform.settings.database_url))
    assert (await upload(api, HASH, archive(f="old"))).status_code == 204
    team = TeamId((await rows(database, f"SELECT team_id FROM builder_files WHERE hash = '{HASH}'"))[0])
    await rows(database, "UPDATE builder_files SET used_at = now() - interval '8 days' RETURNING 1")
    statuses: list[int] = []

    async def upload_once() -> None:
        if not statuses:
            statuses.append(0)
            statuses[0] = (await upload(api, HASH, archive(f="new"))).status_code

    expired, remove = file_store.expired, ObjectStore.delete

    async def expired_and_upload(*arguments: Any, **options: Any) -> Any:
        found = await expired(*arguments, **options)
        await upload_once()
        return found

    async def delete_and_upload(self: ObjectStore, keys: Any) -> None:
        if moment == "after the claim":
            await upload_once()
        await remove(self, keys)
        await upload_once()

    if moment == "before the claim":
        monkeypatch.setattr(file_store, "expired", expired_and_upload)
    else:
        monkeypatch.setattr(ObjectStore, "delete", delete_and_upload)
    await BuilderRetention(database, objects).delete_old()
    assert statuses == [204]
    present = (await api.get(f"/e2b/templates/any/files/{HASH}")).json()["present"]
    stored = await objects.size_of(key_of(team, HASH)) is not None
    assert present == stored, "neither a row without its object nor an object without its row"
    assert present or moment != "before the claim"
    # Nor one that retention has marked, which no later upload can make usable.
    assert (await upload(api, HASH, archive(f="again"))).status_code == 204
    assert (await api.get(f"/e2b/templates/any/files/{HASH}")).json()["present"]
    await rows(database, "DELETE FROM builder_files RETURNING 1")
    await database.close()
