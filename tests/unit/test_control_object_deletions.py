"""Deletions of objects: when a call has returned or raised, none is under way any more."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path

import pytest

from wrenn.base.clock import SystemClock
from wrenn.base.secrets import Secret
from wrenn.control.objects import ObjectStore, StoreSettings, UrlSigner


class SlowFolder:
    """A store that takes longer for a deletion than a call may take."""

    def __init__(self) -> None:
        self.ended = threading.Event()

    def delete(self, _keys: str | Sequence[str]) -> None:
        """Delete slowly."""
        time.sleep(1.0)
        self.ended.set()


async def test_a_slow_deletion_is_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Garbage collection releases its lock then, and uploads rely on chunks that they find afterwards."""
    settings = StoreSettings(tmp_path.as_uri())
    objects = ObjectStore(settings, UrlSigner(Secret("x" * 32), SystemClock()), timeout_s=0.2)
    slow = SlowFolder()
    monkeypatch.setattr(objects, "_store", slow)
    await objects.delete(["team/chunks/aa/x"])
    assert slow.ended.is_set()
    await objects.close()


async def test_objects_of_a_folder_are_there_whole_or_not_at_all(tmp_path: Path) -> None:
    objects = ObjectStore(StoreSettings(tmp_path.as_uri()), UrlSigner(Secret("x" * 32), SystemClock()))
    for content in (b"first", b"second"):
        await objects.put("team/chunks/aa/x", content)
        assert await objects.get("team/chunks/aa/x", limit_b=100) == content
    assert [path.name for path in tmp_path.rglob("*") if path.is_file()] == ["x"]
    # As one that was being written when the power failed.
    (tmp_path / "team/chunks/aa/y#123").write_bytes(b"half")
    found = [found.key async for page in objects.pages("team") for found in page]
    assert found == ["team/chunks/aa/x"]
    await objects.close()


async def test_what_a_killed_write_left_is_deleted_when_it_is_old(tmp_path: Path) -> None:
    objects = ObjectStore(StoreSettings(tmp_path.as_uri()), UrlSigner(Secret("x" * 32), SystemClock()))
    now = SystemClock().now()
    for owner, name, age_s in (("team", "old", 90_000), ("platform", "old", 90_000), ("team", "new", 80_000)):
        await objects.put(f"{owner}/chunks/aa/{name}", b"whole")
        draft = tmp_path / f"{owner}/chunks/aa/{name}#123"
        draft.write_bytes(b"half")
        for path in (draft, tmp_path / f"{owner}/chunks/aa/{name}"):
            os.utime(path, (now.timestamp(), now.timestamp() - age_s))
    assert await objects.delete_drafts(now - timedelta(days=1)) == 2
    left = sorted(str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file())
    assert left == [
        "platform/chunks/aa/old",
        "team/chunks/aa/new",
        "team/chunks/aa/new#123",
        "team/chunks/aa/old",
    ]
    await objects.close()
