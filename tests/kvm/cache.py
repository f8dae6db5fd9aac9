"""Folder of what the host machine is made of, by digest of its sources: built once, used by every run and checkout."""

from __future__ import annotations

import asyncio
import fcntl
import hashlib
import os
import shutil
import tempfile
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final

_KEPT: Final = 2
"""Results of one kind that are kept: two checkouts in turn do not build again."""
_LOCK_TIMEOUT_S: Final = 900.0
_LOCK_RETRY_S: Final = 0.5


def digest_of(parts: Iterable[str | bytes]) -> str:
    """A short digest of these parts in their order."""
    state = hashlib.sha256()
    for part in parts:
        state.update(hashlib.sha256(part.encode() if isinstance(part, str) else part).digest())
    return state.hexdigest()[:16]


@asynccontextmanager
async def locked(folder: Path) -> AsyncGenerator[None]:
    """Hold the folder's lock: one process builds, and one host machine runs at a time on a computer."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    fd = os.open(folder / ".lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        async with asyncio.timeout(_LOCK_TIMEOUT_S):
            while True:
                try:
                    fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except BlockingIOError:
                    await asyncio.sleep(_LOCK_RETRY_S)
        yield
    finally:
        os.close(fd)


async def built(folder: Path, kind: str, key: str, build: Callable[[Path], Awaitable[None]]) -> Path:
    """Return the folder `<kind>-<key>`; `build` makes its files if there is none. The lock must be held.

    A build that is killed leaves a scratch folder, which the next one removes.
    """
    place = folder / f"{kind}-{key}"
    if not place.exists():
        for scratch in folder.glob(f".{kind}-*"):
            shutil.rmtree(scratch)
        scratch = Path(tempfile.mkdtemp(prefix=f".{kind}-", dir=folder))
        try:
            await build(scratch)
            scratch.rename(place)
        except BaseException:
            shutil.rmtree(scratch, ignore_errors=True)
            raise
    os.utime(place)
    others = sorted(folder.glob(f"{kind}-*"), key=lambda path: path.stat().st_mtime, reverse=True)
    for old in others[_KEPT:]:
        shutil.rmtree(old)
    return place
