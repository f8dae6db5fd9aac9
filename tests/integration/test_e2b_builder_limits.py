"""Limits of the e2b template builder against a client that wants more than it may have."""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import io
import os
import tarfile
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx2
import pytest

from tests.integration.conftest import DEADLINE_S, Platform, client, make_team
from tests.integration.test_e2b_builder import HASH, announced, archive, ended, rows, start, status
from wrenn.base.errors import DatabaseUnavailable, RateLimited
from wrenn.base.ids import KeyId, TeamId
from wrenn.control.db import Database
from wrenn.control.e2b import BuilderFiles, BuilderRetention, file_store
from wrenn.control.e2b.builder_files import key_of
from wrenn.control.e2b.upload_links import UploadLink
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

    holder = KeyId((await rows(database, f"SELECT id FROM team_api_keys WHERE team_id = '{team.value}'"))[0])

    async def begin(number: int) -> bool:
        try:
            link = UploadLink(uuid4(), team, f"{number:064x}", datetime.now(UTC), holder)
            await file_store.begin_upload(database, link, 1, bytes_of_team=4 << 30, files_of_team=5)
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
    api, objects = team_platform.api, team_platform.control.objects
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


async def test_slow_uploads_of_some_teams_hold_up_no_other(
    team_platform: Platform, monkeypatch: pytest.MonkeyPatch
) -> None:
    api, url = team_platform.api, str(team_platform.settings.database_url)
    over = asyncio.Event()

    async def slow() -> AsyncIterator[bytes]:
        yield b"x"
        await over.wait()

    slow_ones: list[asyncio.Task[httpx2.Response]] = []
    async with contextlib.AsyncExitStack() as stack:
        stack.callback(over.set)
        for number in range(3):
            key = await make_team(url, f"slow{number}")
            other = await stack.enter_async_context(client(team_platform.url, key))
            link = (await other.get(f"/e2b/templates/any/files/{HASH}")).json()["url"]
            slow_ones.append(asyncio.create_task(other.put(link, content=slow())))
        await asyncio.sleep(0.3)
        assert not any(each.done() for each in slow_ones)
        async with asyncio.timeout(20):
            assert (await upload(api, HASH, archive(f="one"))).status_code == 204
            build = await announced(api)
            assert (await start(api, build, steps=copies([HASH]))).status_code == 202
            await ended(api, build)
        over.set()
        assert [(await each).status_code for each in slow_ones] == [204] * 3
        monkeypatch.setattr("wrenn.control.e2b.template_routes.UPLOAD_SILENCE_S", 1.0)
        over.clear()
        link = (await api.get(f"/e2b/templates/any/files/{HASH}")).json()["url"]
        silent = asyncio.create_task(api.put(link, content=slow()))
        stack.callback(silent.add_done_callback, lambda done: done.cancelled() or done.exception())
        stack.callback(silent.cancel)
        await asyncio.sleep(0.1)
        assert (await upload(api, HASH, archive(f="one"))).status_code == 429, "the team uploads already"
        async with asyncio.timeout(DEADLINE_S):
            while (await upload(api, HASH, archive(f="one"))).status_code == 429:
                await asyncio.sleep(0.1)


async def test_announced_builds_are_limited_whether_started_or_not(
    team_platform: Platform, monkeypatch: pytest.MonkeyPatch
) -> None:
    api = team_platform.api
    database = Database(str(team_platform.settings.database_url))
    monkeypatch.setattr("wrenn.control.e2b.templates._WAITING_LIMIT", 3)
    answers = await asyncio.gather(*(api.post("/e2b/v3/templates", json={"name": "many"}) for _ in range(12)))
    assert sorted(answer.status_code for answer in answers) == [202] * 3 + [409] * 9
    monkeypatch.setattr("wrenn.control.e2b.templates._STARTED_LIMIT", 2)
    builds = [answer.json() for answer in answers if answer.status_code == 202]
    for build in builds:
        long = [{"type": "RUN", "args": ["true " + "x" * 40_000]}]
        assert (await start(api, build, steps=long)).status_code == 202
        await ended(api, build)
    ids = ", ".join(f"'{build['buildID']}'" for build in builds)
    of_these = f"FROM announced_builds WHERE id IN ({ids})"
    assert await rows(database, f"SELECT max(length(commands[1])) {of_these}") == [1_000]
    await announced(api)
    assert await rows(database, f"SELECT count(*) {of_these}") == [2]
    await database.close()


async def test_steps_are_recorded_with_the_build_or_not_at_all(
    team_platform: Platform, monkeypatch: pytest.MonkeyPatch
) -> None:
    api = team_platform.api
    database = Database(str(team_platform.settings.database_url))
    build = await announced(api)
    steps = [{"type": "ENV", "args": ["A", "1"]}]
    recorded = f"SELECT step_numbers IS NOT NULL FROM announced_builds WHERE id = '{build['buildID']}'"
    with monkeypatch.context() as patch:
        patch.setattr("wrenn.control.builds.service._UNFINISHED_LIMIT", 0)
        assert (await start(api, build, steps=steps)).status_code == 409
    assert await rows(database, recorded) == [False]
    assert (await start(api, build, steps=steps)).status_code == 202
    assert await rows(database, recorded) == [True]
    assert (await ended(api, build))["status"] == "ready"
    # As the retention of builds does.
    await rows(database, f"DELETE FROM build_logs WHERE build_id = '{build['buildID']}' RETURNING 1")
    await rows(database, f"DELETE FROM builds WHERE id = '{build['buildID']}' RETURNING 1")
    found = await status(api, build)
    assert (found["status"], "not kept" in found["reason"]["message"]) == ("error", True)
    assert (await start(api, build, steps=steps)).status_code == 409
    await database.close()


async def test_a_build_whose_commit_was_not_answered_keeps_its_archive(
    team_platform: Platform, monkeypatch: pytest.MonkeyPatch
) -> None:
    api = team_platform.api
    assert (await upload(api, HASH, archive(f="one"))).status_code == 204
    build = await announced(api)
    transaction = Database.transaction

    async def unanswered(self: Database, work: Any) -> Any:
        result = await transaction(self, work)
        if "Builds.create.<locals>.insert" in work.__qualname__:
            raise DatabaseUnavailable("The database does not answer.")
        return result

    with monkeypatch.context() as patch:
        patch.setattr(Database, "transaction", unanswered)
        assert (await start(api, build, steps=copies([HASH]))).status_code == 503
    assert (await start(api, build, steps=copies([HASH]))).status_code == 409
    found = await ended(api, build)
    assert found["status"] == "ready", found


async def test_tags_move_all_or_none(team_platform: Platform) -> None:
    api = team_platform.api
    build = await announced(api)
    assert (await start(api, build, steps=[])).status_code == 202
    assert (await ended(api, build))["status"] == "ready"
    name = build["templateID"]

    async def assign(*tags: str) -> int:
        return (await api.post("/e2b/templates/tags", json={"target": name, "tags": tags})).status_code

    async def tags() -> set[str]:
        return {each["tag"] for each in (await api.get(f"/e2b/templates/{name}/tags")).json()}

    assert await assign("good", "Bad Tag") == 400
    assert await tags() == {"default"}
    assert await assign(*(f"t{number}" for number in range(32))) == 400, "with `default` these are 33"
    assert await tags() == {"default"}
    assert await assign("one", "two", "one") == 201
    assert await tags() == {"default", "one", "two"}
