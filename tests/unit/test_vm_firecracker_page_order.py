"""The order in which a VM needs its memory is kept once, bounded, and never in anybody's way."""

from __future__ import annotations

from pathlib import Path

import pytest

from wrenn.vm.firecracker.page_order import NUMBER_B, PageOrder


def order(folder: Path, *, machine: str = "cl-1") -> PageOrder:
    (folder / machine).mkdir()
    return PageOrder(folder / "image" / ".pages.order", folder / machine / "pages.recorded")


def test_what_was_recorded_first_is_used_from_then_on(tmp_path: Path) -> None:
    (tmp_path / "image").mkdir()
    first, second = order(tmp_path), order(tmp_path, machine="cl-2")
    assert first.begin() is None
    first.recorded.write_bytes(b"\1\0\0\0")
    first.keep()
    second.recorded.write_bytes(b"\2\0\0\0")
    second.keep()
    assert second.begin() == second.stored
    assert second.stored.read_bytes() == b"\1\0\0\0"
    assert not second.recorded.exists(), "what an earlier start recorded is another order"
    assert [path.name for path in (tmp_path / "image").iterdir()] == [".pages.order"]


def test_nothing_recorded_is_no_order(tmp_path: Path) -> None:
    (tmp_path / "image").mkdir()
    started = order(tmp_path)
    started.recorded.touch()
    started.keep()
    assert started.begin() is None


def test_an_order_has_an_end(tmp_path: Path) -> None:
    (tmp_path / "image").mkdir()
    started = order(tmp_path)
    started.recorded.write_bytes(bytes(NUMBER_B) * 100_000)
    started.keep()
    assert started.stored.stat().st_size == 64 * 1024


@pytest.mark.parametrize("missing", ["image", "record"])
def test_an_order_that_cannot_be_stored_is_only_logged(
    tmp_path: Path, missing: str, caplog: pytest.LogCaptureFixture
) -> None:
    started = order(tmp_path)
    if missing == "image":
        started.recorded.write_bytes(b"\1\0\0\0")
    else:
        started.stored.parent.mkdir()
    started.keep()
    assert "is not stored" in caplog.text
    assert not started.stored.exists()
    assert [path for path in tmp_path.rglob(".*") if path.is_file()] == []
