"""A streamed upload that breaks off at the client leaves what was there, and nothing beside it."""

from __future__ import annotations

import asyncio
import sys
from asyncio.subprocess import DEVNULL, PIPE
from collections.abc import AsyncIterator, Iterator

import pytest

from wrenn import AsyncSandbox, Sandbox

from .conftest import DEADLINE_S, Platform
from .typed_commands import environment, sandbox_id

PIECE = b"new " * 65536
KILLED = """
import sys
from wrenn import Sandbox

def source():
    yield b"new " * 65536
    yield b"new " * 65536
    print("sent", flush=True)
    sys.stdin.read()

Sandbox.connect(sys.argv[1], resume=False).files.write(sys.argv[2], source())
"""


class SourceError(Exception):
    """The source of an upload fails."""


def broken() -> Iterator[bytes]:
    yield PIECE
    yield PIECE
    raise SourceError


async def broken_async() -> AsyncIterator[bytes]:
    for piece in (PIECE, PIECE):
        yield piece
    raise SourceError


@pytest.fixture
async def box(platform: Platform, monkeypatch: pytest.MonkeyPatch) -> str:
    """A sandbox in which `/srv/old` is the only file of its folder."""
    monkeypatch.setenv("WRENN_BASE_URL", platform.url)
    monkeypatch.setenv("WRENN_API_KEY", platform.key.reveal())
    box = sandbox_id(await platform.create())
    sandbox = await AsyncSandbox.connect(box)
    await sandbox.files.write("/srv/old", "old")
    await sandbox.close()
    return box


async def wait_unchanged(platform: Platform, box: str) -> None:
    """Wait until the folder has only the old file again: the platform hears of the end a moment later."""
    folder = platform.host.root_of(box) / "srv"
    async with asyncio.timeout(DEADLINE_S):
        while [path.name for path in folder.iterdir()] != ["old"]:
            await asyncio.sleep(0.02)
    assert (folder / "old").read_text() == "old"


@pytest.mark.parametrize("path", ["/srv/old", "/srv/fresh"])
async def test_a_source_that_raises_leaves_no_truncated_target(
    platform: Platform, box: str, path: str
) -> None:
    def write() -> None:
        Sandbox.connect(box).files.write(path, broken())

    with pytest.raises(SourceError):
        await asyncio.to_thread(write)
    await wait_unchanged(platform, box)
    sandbox = await AsyncSandbox.connect(box)
    for source in (broken(), broken_async()):
        with pytest.raises(SourceError):
            await sandbox.files.write(path, source)
        await wait_unchanged(platform, box)
    # The connection that broke off does not hinder what comes next.
    assert await sandbox.files.read("/srv/old") == "old"
    await sandbox.close()


@pytest.mark.parametrize("path", ["/srv/old", "/srv/fresh"])
async def test_a_program_killed_in_an_upload_leaves_no_truncated_target(
    platform: Platform, box: str, path: str
) -> None:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", KILLED, box, path,
        env=environment(platform), stdin=PIPE, stdout=PIPE, stderr=DEVNULL,
    )  # fmt: skip
    assert process.stdout is not None
    try:
        async with asyncio.timeout(4 * DEADLINE_S):
            assert await process.stdout.readline() == b"sent\n"
    finally:
        process.kill()
        await process.communicate()
    await wait_unchanged(platform, box)
