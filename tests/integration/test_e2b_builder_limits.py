"""Limits of the e2b template builder against a client that wants more than it may have."""

from __future__ import annotations

import gzip
import io
import os
import tarfile
from pathlib import Path

import httpx2
import pytest

from tests.integration.conftest import Platform
from tests.integration.test_e2b_builder import announced, archive, ended, start
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
