"""One fleet for all tests of the folder. Needs root and HAProxy; costs about 25 s."""

from __future__ import annotations

import asyncio
import fcntl
import os
import shutil
import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
import pytest_asyncio

from tests.fleet.kit import Fleet, joined_fleet
from wrenn.control.db.embedded import ensure_running, stop
from wrenn.control.db.migrate import migrate


@pytest.fixture(scope="session")
def folder() -> Iterator[Path]:
    """A folder that PostgreSQL's user can reach."""
    if os.geteuid() != 0:
        pytest.skip("needs root: network namespaces")
    folder = Path(tempfile.mkdtemp(prefix="wrenn-fleet-"))
    folder.chmod(0o711)
    # The names of the networks are the machine's: another run would remove those of this one.
    with (Path(tempfile.gettempdir()) / "wrenn-fleet.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield folder
    asyncio.run(stop(folder))
    shutil.rmtree(folder)


@pytest.fixture(scope="session")
def database_url(folder: Path) -> str:
    async def prepare() -> str:
        url = await ensure_running(folder)
        await migrate(url)
        return url

    return asyncio.run(prepare())


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def fleet(folder: Path, database_url: str) -> AsyncIterator[Fleet]:
    async with joined_fleet(folder, database_url) as fleet:
        yield fleet
        await fleet.remove_sandboxes()
        await fleet.assert_equal_truth()
        await fleet.assert_nothing_left()
