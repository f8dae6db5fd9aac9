"""Disk blocks of files are taken before they are written, and given back."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from wrenn.base.units import KIB, MIB, PAGE_B
from wrenn.linux import allocation


def taken_b(path: Path) -> int:
    return path.stat().st_blocks * 512


def place_in(found: list[int]) -> Callable[[int], int]:
    """A file system that has a file in these places, one after the other."""

    def place(fd: int) -> int:
        del fd
        found.append(found.pop(0))
        return found[-1]

    return place


def sparse(path: Path, size_b: int = 4 * MIB) -> Path:
    with path.open("wb") as file:
        file.truncate(size_b)
    return path


def test_blocks_are_taken_for_holes_and_the_content_stays(tmp_path: Path) -> None:
    path = sparse(tmp_path / "file")
    with path.open("r+b") as file:
        file.seek(MIB)
        file.write(b"content")
    allocation.allocate(path, 0, 2 * MIB)
    assert 2 * MIB <= taken_b(path) < 3 * MIB
    assert path.stat().st_size == 4 * MIB
    content = path.read_bytes()
    assert content[MIB : MIB + 7] == b"content"
    assert not any(content[MIB + 7 :])
    allocation.allocate(path, MIB, MIB)
    assert taken_b(path) < 3 * MIB


def test_blocks_are_given_back_from_an_offset_on(tmp_path: Path) -> None:
    path = sparse(tmp_path / "file")
    path.write_bytes(b"\1" * (4 * MIB))
    allocation.give_back(path, MIB)
    assert MIB <= taken_b(path) < 2 * MIB
    assert path.stat().st_size == 4 * MIB
    content = path.read_bytes()
    assert content[:MIB] == b"\1" * MIB
    assert not any(content[MIB:])
    allocation.give_back(path, 5 * MIB)
    assert path.stat().st_size == 4 * MIB


def test_no_file_becomes_longer_and_no_blocks_are_taken_of_the_last_ones(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = sparse(tmp_path / "file")
    allocation.allocate(path, 0, 5 * MIB)
    assert path.stat().st_size == 4 * MIB
    other = sparse(tmp_path / "other")
    free_b = os.statvfs(tmp_path).f_bavail * os.statvfs(tmp_path).f_frsize
    monkeypatch.setattr(allocation, "_LEFT_B", free_b)
    with pytest.raises(OSError, match="No space left"):
        allocation.allocate(other, MIB, 2 * MIB)
    assert taken_b(other) == 0
    # What was written has its blocks.
    allocation.allocate(path, 0, 4 * MIB)


def test_what_only_the_page_cache_has_is_known(tmp_path: Path) -> None:
    path = tmp_path / "file"
    with path.open("wb") as file:
        file.write(b"\1" * MIB)
        file.flush()
        assert allocation.unwritten_b(path) >= MIB
        os.fsync(file.fileno())


def test_an_older_kernel_says_it_of_the_machine() -> None:
    meminfo = "MemTotal:  100 kB\nDirty:      20 kB\nWriteback:   4 kB\nWritebackTmp:  7 kB\n"
    assert allocation.unwritten_of_machine_b(meminfo) == 24 * KIB


def test_debugfs_says_it_of_a_device() -> None:
    stats = (
        "BdiWriteback:              16 kB\nBdiReclaimable:          2048 kB\nBdiDirtyThresh:     999999 kB\n"
    )
    assert allocation.unwritten_of_device_b(stats) == 2064 * KIB + 4 * MIB
    with pytest.raises(ValueError, match="does not say"):
        allocation.unwritten_of_device_b("b_dirty: 1\n")


def test_a_file_system_that_writes_elsewhere_each_time_is_noticed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = [PAGE_B] * 3
    monkeypatch.setattr(allocation, "_place", place_in(found))
    assert allocation.overwrites_in_place(tmp_path)
    found[:] = [PAGE_B, PAGE_B, 2 * PAGE_B]
    assert not allocation.overwrites_in_place(tmp_path)
    found[:] = [0] * 3
    assert not allocation.overwrites_in_place(tmp_path), "the file system does not say where files are"
