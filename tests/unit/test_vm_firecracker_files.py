"""Files of Firecracker's VMs: what a VMM wrote is not trusted, and memory is the same after a save and a restore."""

from __future__ import annotations

import asyncio
import errno
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from wrenn.base.errors import InvalidState, StorageFull
from wrenn.base.units import MIB, PAGE_B
from wrenn.linux import allocation
from wrenn.linux.files import data_extents
from wrenn.storage.errors import DamagedSnapshot
from wrenn.vm.firecracker import host_check
from wrenn.vm.firecracker.host_check import keeps_pages_apart
from wrenn.vm.firecracker.image_files import link_image
from wrenn.vm.firecracker.installation import find_installation
from wrenn.vm.firecracker.jail_files import DIRTIED, DirtiedPages, open_dirtied, take_file
from wrenn.vm.firecracker.zero_pages import copy_without_zeros
from wrenn.vm.memory_diff import MemoryFile, apply_diff, write_diff


def link_elsewhere(path: Path) -> None:
    path.symlink_to("/etc/passwd")


def second_link(path: Path) -> None:
    shared = path.with_name("shared")
    shared.write_bytes(b"x")
    path.hardlink_to(shared)


@pytest.mark.parametrize("make", [link_elsewhere, second_link, Path.mkdir, os.mkfifo])
def test_what_is_no_file_of_the_vmm_is_not_taken(tmp_path: Path, make: Callable[[Path], None]) -> None:
    (tmp_path / "jail").mkdir()
    make(tmp_path / "jail/state")
    modes = {
        path: path.stat().st_mode for path in (Path("/etc/passwd"), tmp_path / "jail/shared") if path.exists()
    }
    with pytest.raises((DamagedSnapshot, OSError)):
        take_file(tmp_path / "jail/state", tmp_path / "state")
    assert {path: path.stat().st_mode for path in modes} == modes


def test_a_file_that_is_taken_leaves_the_jail_and_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "jail").mkdir()
    (tmp_path / "jail/state").write_bytes(b"state")
    take_file(tmp_path / "jail/state", tmp_path / "state")
    assert (tmp_path / "state").read_bytes() == b"state"
    assert (tmp_path / "state").stat().st_mode & 0o777 == 0o400
    assert not (tmp_path / "jail/state").exists()


@pytest.mark.parametrize("make", [link_elsewhere, Path.mkdir, os.mkfifo, Path.touch])
def test_dirtied_pages_of_another_kind_or_size_are_refused(
    tmp_path: Path, make: Callable[[Path], None]
) -> None:
    make(tmp_path / DIRTIED)
    with pytest.raises(DamagedSnapshot):
        open_dirtied(tmp_path, size_b=MIB)


def test_missing_dirtied_pages_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DamagedSnapshot):
        open_dirtied(tmp_path, size_b=MIB)


def sparse(path: Path, pages: dict[int, bytes], size_b: int = MIB) -> int:
    fd = os.open(path, os.O_RDWR | os.O_CREAT)
    os.ftruncate(fd, size_b)
    for number, content in pages.items():
        os.pwrite(fd, content, number * PAGE_B)
    return fd


def page(letter: str) -> bytes:
    return letter.encode() * PAGE_B


def test_dirtied_pages_over_an_image_give_the_memory_again(tmp_path: Path) -> None:
    """Pages that came to be zero count; those that became what they were do not."""
    below = {0: page("a"), 3: page("b"), 4: page("c"), 200: page("d")}
    image = sparse(tmp_path / "image", below)
    dirtied = sparse(
        tmp_path / DIRTIED, {3: page("n"), 4: bytes(PAGE_B), 7: page("m"), 8: page("k"), 200: page("d")}
    )
    size = write_diff(tmp_path / "memory", DirtiedPages(dirtied, MIB), image)
    assert (size.data_pages, size.zero_pages) == (3, 1)
    apply_diff(tmp_path / "memory", size.digest, MemoryFile(image, MIB))
    expected = below | {3: page("n"), 4: bytes(PAGE_B), 7: page("m"), 8: page("k")}
    for number in range(MIB // PAGE_B):
        assert os.pread(image, PAGE_B, number * PAGE_B) == expected.get(number, bytes(PAGE_B)), number


def test_memory_that_began_as_zeros_is_saved_over_an_image(tmp_path: Path) -> None:
    image = sparse(tmp_path / "image", {0: page("a"), 3: page("b"), 200: page("d")})
    dirtied = sparse(tmp_path / DIRTIED, {3: page("n"), 7: page("m")})
    size = write_diff(tmp_path / "memory", DirtiedPages(dirtied, MIB, image), image)
    assert (size.data_pages, size.zero_pages) == (2, 2)
    apply_diff(tmp_path / "memory", size.digest, MemoryFile(image, MIB))
    for number in range(MIB // PAGE_B):
        expected = {3: page("n"), 7: page("m")}.get(number, bytes(PAGE_B))
        assert os.pread(image, PAGE_B, number * PAGE_B) == expected, number


def test_dirtied_pages_that_are_cut_meanwhile_are_refused(tmp_path: Path) -> None:
    fd = sparse(tmp_path / DIRTIED, {3: page("n")})
    pages = DirtiedPages(fd, MIB)
    runs = pages.own_pages()
    os.ftruncate(fd, PAGE_B)
    with pytest.raises(DamagedSnapshot):
        pages.read(runs, np.empty(MIB, dtype=np.uint8))


def test_dirtied_pages_of_a_file_that_grew_stay_within_the_memory(tmp_path: Path) -> None:
    fd = sparse(tmp_path / DIRTIED, {3: page("n")})
    pages = DirtiedPages(fd, MIB)
    os.pwrite(fd, page("x") * 4, MIB - 2 * PAGE_B)
    assert pages.own_pages().tolist() == [[3, 1], [254, 2]]
    os.pwrite(fd, page("x"), 2 * MIB)
    assert pages.own_pages().tolist() == [[3, 1], [254, 2]]


def test_a_copy_without_zeros_has_the_same_content_and_holes(tmp_path: Path) -> None:
    content = {0: page("a"), 1: page("b"), 255: page("z"), 300: page("y")}
    whole = bytearray(2 * MIB)
    for number, data in content.items():
        whole[number * PAGE_B : (number + 1) * PAGE_B] = data
    (tmp_path / "whole").write_bytes(whole)
    copy_without_zeros(tmp_path / "whole", tmp_path / "copy")
    assert (tmp_path / "copy").read_bytes() == whole
    with (tmp_path / "copy").open("rb") as copy:
        assert sum(end - start for start, end in data_extents(copy.fileno())) == len(content) * PAGE_B


def test_an_image_whose_file_was_removed_is_copied(tmp_path: Path) -> None:
    """It may be evicted from the cache between the moments in which a machine gets it and links it."""
    image = sparse(tmp_path / "image", {3: page("b")})
    link_image(image, tmp_path / "linked")
    assert (tmp_path / "linked").samefile(tmp_path / "image")
    (tmp_path / "image").unlink()
    (tmp_path / "linked").unlink()
    link_image(image, tmp_path / "copied")
    assert (tmp_path / "copied").read_bytes() == os.pread(image, MIB, 0)
    assert (tmp_path / "copied").stat().st_mode & 0o777 == 0o444


def test_this_file_system_keeps_pages_apart_and_one_with_large_records_is_noticed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert keeps_pages_apart(tmp_path)
    record_b = 32 * PAGE_B

    def by_record(fd: int) -> list[tuple[int, int]]:
        return [(s // record_b * record_b, -(-e // record_b) * record_b) for s, e in data_extents(fd)]

    def without_zeros(fd: int) -> list[tuple[int, int]]:
        return [(s, e) for s, e in data_extents(fd) if any(os.pread(fd, e - s, s))]

    for wrong in (by_record, without_zeros):
        monkeypatch.setattr(host_check, "data_extents", wrong)
        assert not keeps_pages_apart(tmp_path)


def test_a_full_disk_does_not_say_that_firecracker_cannot_be_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else the agent could not start there, which frees space."""

    def full(folder: Path) -> bool:
        raise OSError(errno.ENOSPC, f"no space below {folder}")

    monkeypatch.setattr(host_check, "keeps_pages_apart", full)
    assert asyncio.run(host_check.why_not_usable(tmp_path)) == ""
    monkeypatch.undo()

    async def also_full(folder: Path) -> str:
        raise StorageFull(f"no space below {folder}")

    monkeypatch.setattr(host_check, "_why_no_disks", also_full)
    monkeypatch.setattr(host_check, "keeps_pages_apart", Path.is_dir)
    monkeypatch.setattr(allocation, "overwrites_in_place", Path.is_dir)
    assert asyncio.run(host_check.why_not_usable(tmp_path)) == ""
    monkeypatch.setattr(allocation, "overwrites_in_place", Path.is_file)
    assert "cannot keep space" in asyncio.run(host_check.why_not_usable(tmp_path))
    assert asyncio.run(host_check.why_not_usable(tmp_path, is_in_use=True)) == ""


def program(path: Path, version: str) -> None:
    path.write_text(f"#!/bin/sh\necho '{version}'\n")
    path.chmod(0o755)


async def test_both_programs_of_one_supported_version_are_found(tmp_path: Path) -> None:
    program(tmp_path / "firecracker", "Firecracker v1.14.2")
    program(tmp_path / "jailer", "Jailer v1.14.2")
    found = await find_installation(tmp_path)
    assert found.vmm == "firecracker 1.14.2"
    assert (found.program, found.jailer) == (tmp_path / "firecracker", tmp_path / "jailer")


@pytest.mark.parametrize(
    ("firecracker", "jailer", "reason"),
    [
        ("Firecracker v1.14.2", "Jailer v1.14.1", "from one release"),
        ("Firecracker v1.11.0", "Jailer v1.11.0", "versions 1.12 to 1.16 are supported"),
        ("Firecracker v1.17.0", "Jailer v1.17.0", "versions 1.12 to 1.16 are supported"),
        ("hello", "Jailer v1.14.1", "does not tell its version"),
        ("", "Jailer v1.14.1", "no program firecracker"),
        ("Firecracker v1.14.2", "", "no program jailer"),
    ],
)
async def test_what_cannot_be_used_is_refused_with_its_reason(
    tmp_path: Path, firecracker: str, jailer: str, reason: str
) -> None:
    for name, version in (("firecracker", firecracker), ("jailer", jailer)):
        if version:
            program(tmp_path / name, version)
    with pytest.raises(InvalidState, match=reason):
        await find_installation(tmp_path)


async def test_a_program_that_others_may_change_is_refused(tmp_path: Path) -> None:
    for name in ("firecracker", "jailer"):
        program(tmp_path / name, "v1.14.2")
    (tmp_path / "jailer").chmod(0o777)
    with pytest.raises(InvalidState, match="chmod 755"):
        await find_installation(tmp_path)
