"""Memory diffs: what is written of a real process's private mapping, and that it comes back bit by bit."""

from __future__ import annotations

import hashlib
import os
import random
import subprocess
import sys
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import xxhash

from wrenn.base.units import MIB, PAGE_B
from wrenn.linux.process_memory import ProcessMemory, find_mapping, pages_of, read_pagemap, runs_of
from wrenn.storage.errors import DamagedSnapshot
from wrenn.vm.memory_diff import MemoryFile, apply_diff, check_diff, write_diff

SIZE_B = 16 * MIB
HOLDER = """
import mmap, os, sys
memory = mmap.mmap(int(sys.argv[1]), 0, flags=mmap.MAP_PRIVATE)
exec(sys.argv[2])
print("ready", flush=True)
sys.stdin.readline()
"""


@pytest.fixture
def image() -> Iterator[int]:
    """A memory image: pages 1 to 99 have data, of which the odd ones repeat their number, the rest is a hole."""
    fd = os.memfd_create("wrenn-image")
    os.ftruncate(fd, SIZE_B)
    for page in range(1, 100):
        os.pwrite(fd, bytes([page]) * PAGE_B, page * PAGE_B)
    yield fd
    os.close(fd)


@contextmanager
def holder(image: int, script: str) -> Generator[ProcessMemory]:
    """A process that maps the image privately and has run `script` on it."""
    command = [sys.executable, "-c", HOLDER, str(image), script]
    process = subprocess.Popen(command, pass_fds=[image], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    with process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        memory = find_mapping(process.pid, "/memfd:wrenn-image")
        assert memory is not None
        assert memory.size_b == SIZE_B
        yield memory
        process.kill()


def content(memory: ProcessMemory) -> bytes:
    with Path(f"/proc/{memory.pid}/mem").open("rb", buffering=0) as file:
        return os.pread(file.fileno(), memory.size_b, memory.address)


def test_only_pages_that_differ_are_written(tmp_path: Path, image: int) -> None:
    script = """
memory[5 * 4096] = 77                      # differs
memory[6 * 4096] = 6                       # written with what it was
memory[7 * 4096 : 8 * 4096] = bytes(4096)  # became zero
memory[200 * 4096] = 0                     # was zero, is zero
memory[300 * 4096 : 303 * 4096] = b'x' * 3 * 4096
memory[50 * 4096]                          # only read
"""
    with holder(image, script) as memory:
        assert set(pages_of(memory.own_pages()).tolist()) == {5, 6, 7, 200, 300, 301, 302}
        size = write_diff(tmp_path / "memory", memory, image)
        assert (size.data_pages, size.zero_pages) == (4, 1)
        wanted = content(memory)
    assert (tmp_path / "memory").stat().st_size == size.size_b < 6 * PAGE_B
    with holder(image, "memory[8 * 4096 : 9 * 4096] = memory[8 * 4096 : 9 * 4096]") as memory:
        apply_diff(tmp_path / "memory", size.digest, memory)
        assert content(memory) == wanted


def test_a_diff_laid_over_a_process_or_a_file_gives_the_same(tmp_path: Path, image: int) -> None:
    seed = random.randrange(2**32)
    script = f"""
import random
random.seed({seed})
for _ in range(900):
    page = random.randrange(len(memory) // 4096)
    count = min(random.choice([1, 1, 2, 9, 70]), len(memory) // 4096 - page)
    fill = random.choice([bytes(4096), random.randbytes(4096)])
    memory[page * 4096 : (page + count) * 4096] = fill * count
"""
    with holder(image, script) as memory:
        size = write_diff(tmp_path / "memory", memory, image)
        wanted = hashlib.sha256(content(memory)).hexdigest()
    with holder(image, "") as memory:
        apply_diff(tmp_path / "memory", size.digest, memory)
        assert hashlib.sha256(content(memory)).hexdigest() == wanted, f"seed {seed}"
        again = write_diff(tmp_path / "again", memory, image)
        assert again.data_pages == size.data_pages, "restored pages are in the next diff again, and only they"
    copy = os.memfd_create("wrenn-copy")
    os.ftruncate(copy, SIZE_B)
    for page in range(1, 100):
        os.pwrite(copy, bytes([page]) * PAGE_B, page * PAGE_B)
    apply_diff(tmp_path / "memory", size.digest, MemoryFile(copy, SIZE_B))
    assert hashlib.sha256(os.pread(copy, SIZE_B, 0)).hexdigest() == wanted, f"seed {seed}"
    os.close(copy)


def test_untouched_memory_is_an_empty_diff(tmp_path: Path, image: int) -> None:
    with holder(image, "") as memory:
        size = write_diff(tmp_path / "memory", memory, image)
        assert (size.data_pages, size.zero_pages, size.size_b) == (0, 0, PAGE_B)
        apply_diff(tmp_path / "memory", size.digest, memory)
        assert len(memory.own_pages()) == 0


def test_both_ways_to_find_own_pages_agree(image: int) -> None:
    script = "for page in (0, 1, 2, 77, 500, 501, 4095): memory[page * 4096] = 9"
    with (
        holder(image, script) as memory,
        Path(f"/proc/{memory.pid}/pagemap").open("rb", buffering=0) as pagemap,
    ):
        slow = read_pagemap(pagemap.fileno(), memory)
        assert slow.tolist() == memory.own_pages().tolist() == [[0, 3], [77, 1], [500, 2], [4095, 1]]


def test_runs_and_pages_are_two_forms_of_the_same() -> None:
    runs = [[0, 1], [5, 3], [10, 1]]
    pages = [0, 5, 6, 7, 10]
    assert runs_of(np.array(pages)).tolist() == runs
    assert pages_of(np.array(runs)).tolist() == pages


@pytest.mark.parametrize("where", ["magic", "header", "data", "tables", "cut", "longer", "other"])
def test_a_damaged_or_foreign_diff_is_refused(tmp_path: Path, image: int, where: str) -> None:
    path = tmp_path / "memory"
    with holder(image, "memory[0 : 40 * 4096] = b'y' * 40 * 4096") as memory:
        size = write_diff(path, memory, image)
        raw = bytearray(path.read_bytes())
        at = {"magic": 0, "header": 17, "data": 5 * PAGE_B, "tables": len(raw) - 3}.get(where)
        if at is not None:
            raw[at] ^= 0x40
        path.chmod(0o600)
        path.write_bytes({"cut": raw[:-1], "longer": raw + b"x"}.get(where, raw))
        digest = "00" * 16 if where == "other" else size.digest
        with pytest.raises(DamagedSnapshot):
            apply_diff(path, digest, memory)
        if where != "data":
            with pytest.raises(DamagedSnapshot):
                check_diff(path, digest)


@pytest.mark.parametrize(
    ("offset", "value"),
    [(0, 4096), (4, 4097), (4, 0), (8, 1), (12, 1), (16, 39), (16, 41)],
    ids=["page", "count", "no count", "data", "chunk", "short chunk", "long chunk"],
)
def test_numbers_out_of_bounds_are_refused_even_under_a_right_digest(
    tmp_path: Path, image: int, offset: int, value: int
) -> None:
    path = tmp_path / "memory"
    with holder(image, "memory[0 : 40 * 4096] = b'y' * 40 * 4096") as memory:
        write_diff(path, memory, image)
    raw = bytearray(path.read_bytes())
    at = 41 * PAGE_B
    assert len(raw) == at + 12 + 16, "one run of 12 bytes, one chunk of 16"
    raw[at + offset : at + offset + 4] = value.to_bytes(4, "little")
    digest = xxhash.xxh3_128_digest(bytes(raw[:56] + raw[at:]))
    raw[56:72] = digest
    path.chmod(0o600)
    path.write_bytes(raw)
    with pytest.raises(DamagedSnapshot, match="cannot be"):
        check_diff(path, digest.hex())


def test_a_process_that_is_gone_is_an_error(tmp_path: Path, image: int) -> None:
    with holder(image, "memory[0] = 1") as memory:
        pass
    with pytest.raises(OSError, match="No such"):
        write_diff(tmp_path / "memory", memory, image)
