"""Copy-on-write files of dm-snapshot: sizes, checks of what another host may send, digests. tests/kvm has those that the kernel writes."""

from __future__ import annotations

import os
import struct
from pathlib import Path

import numpy as np
import pytest

from wrenn.base.units import GIB, MIB
from wrenn.storage.errors import DamagedSnapshot
from wrenn.vm.firecracker import cow_file
from wrenn.vm.firecracker.cow_file import CHUNK_B

_DISK_CHUNKS = 600


def written(path: Path, entries: list[tuple[int, int]], *, disk_chunks: int = _DISK_CHUNKS) -> Path:
    """A file whose tables have these entries: chunk of the disk, chunk of the file. Contents are the number of the disk's chunk."""
    cow_file.create(path, size_b=disk_chunks * CHUNK_B)
    with path.open("r+b") as file:
        for number, (of_disk, of_file) in enumerate(entries):
            table, at = divmod(number, 256)
            file.seek((1 + table * 257) * CHUNK_B + at * 16)
            file.write(struct.pack("<2q", of_disk, of_file))
            if 0 <= of_file < cow_file.file_chunks(disk_chunks):
                file.seek(of_file * CHUNK_B)
                file.write(struct.pack("<q", of_disk + 1) * (CHUNK_B // 8))
    return path


def kernel_order(count: int) -> list[int]:
    """The chunks that the kernel takes, one after the other: all but the header and the tables."""
    return [chunk for chunk in range(2, 2 * count + 4) if (chunk - 1) % 257][:count]


def full(path: Path, *, disk_chunks: int = _DISK_CHUNKS) -> Path:
    """A file in which each chunk of the disk was written, from the last to the first."""
    entries = list(zip(reversed(range(disk_chunks)), kernel_order(disk_chunks), strict=True))
    return written(path, entries, disk_chunks=disk_chunks)


@pytest.mark.parametrize("chunks", [1, 255, 256, 257, 512, 2047, 2048, 5 * GIB // CHUNK_B, 2**36])
def test_a_file_has_space_for_every_chunk_of_its_disk_and_says_its_size(chunks: int) -> None:
    length = cow_file.file_chunks(chunks)
    assert cow_file.disk_chunks(length) == chunks
    tables = chunks // 256 + 1  # with the empty one that ends a full one
    assert length > tables + chunks


def test_lengths_that_no_disk_has_are_recognised() -> None:
    lengths = {cow_file.file_chunks(chunks) for chunks in range(1, 2000)}
    for length in range(max(lengths)):
        assert (cow_file.disk_chunks(length) > 0) == (length in lengths)


def test_an_empty_file_changes_nothing_and_takes_no_space(tmp_path: Path) -> None:
    path = tmp_path / "layer"
    cow_file.create(path, size_b=5 * GIB)
    content = cow_file.inspect(path)
    assert len(content.chunks) == 0
    assert content.used_chunks == 2
    assert cow_file.disk_size_b(path) == 5 * GIB
    assert path.stat().st_blocks * 512 <= MIB
    with pytest.raises(FileExistsError):
        cow_file.create(path, size_b=5 * GIB)


@pytest.mark.parametrize("disk_chunks", [1, 255, 256, 257, 512, 600])
def test_the_used_part_contains_everything(tmp_path: Path, disk_chunks: int) -> None:
    path = full(tmp_path / "layer", disk_chunks=disk_chunks)
    content = cow_file.inspect(path)
    assert len(content.chunks) == disk_chunks
    assert content.used_chunks == 1 + disk_chunks + disk_chunks // 256 + 1
    assert content.used_chunks > content.chunks[:, 1].max()
    os.truncate(path, content.used_chunks * CHUNK_B)
    with pytest.raises(DamagedSnapshot):
        cow_file.inspect(path)


def test_a_file_that_grew_is_that_of_a_larger_disk(tmp_path: Path) -> None:
    path = full(tmp_path / "layer")
    for _ in range(2):
        cow_file.enlarge(path, size_b=900 * CHUNK_B)
        assert cow_file.disk_size_b(path) == 900 * CHUNK_B
    cow_file.enlarge(path, size_b=CHUNK_B)
    assert cow_file.disk_size_b(path) == 900 * CHUNK_B
    assert len(cow_file.inspect(path).chunks) == _DISK_CHUNKS


@pytest.mark.parametrize(
    "entries",
    [
        [(-1, 2)],
        [(_DISK_CHUNKS, 2)],
        [(0, -1)],
        [(0, 1)],
        [(0, 2), (1, 2)],
        [(0, 2), (0, 3)],
        [(0, 1 << 40)],
        [(0, cow_file.file_chunks(_DISK_CHUNKS))],
        [*zip(range(256), range(2, 258), strict=True), (256, 258)],
    ],
    ids=str,
)
def test_entries_that_the_kernel_cannot_have_written_are_refused(
    tmp_path: Path, entries: list[tuple[int, int]]
) -> None:
    with pytest.raises(DamagedSnapshot):
        cow_file.inspect(written(tmp_path / "layer", entries))


@pytest.mark.parametrize(
    ("offset", "value"), [(0, 1), (4, 0), (8, 2), (12, 0), (12, 16), (12, 1 << 31)], ids=str
)
def test_headers_that_the_kernel_cannot_use_are_refused(tmp_path: Path, offset: int, value: int) -> None:
    path = full(tmp_path / "layer")
    with path.open("r+b") as file:
        file.seek(offset)
        file.write(struct.pack("<I", value))
    with pytest.raises(DamagedSnapshot):
        cow_file.inspect(path)


@pytest.mark.parametrize("size_b", [0, 15, CHUNK_B, CHUNK_B * 300 + 1, CHUNK_B * 100])
def test_files_that_were_cut_are_refused(tmp_path: Path, size_b: int) -> None:
    path = full(tmp_path / "layer")
    os.truncate(path, size_b)
    with pytest.raises(DamagedSnapshot):
        cow_file.inspect(path)
    assert size_b != CHUNK_B or cow_file.disk_size_b(path) == 0


def test_a_table_without_an_end_is_refused(tmp_path: Path) -> None:
    """Every table is full, to the end of the file."""
    path = tmp_path / "layer"
    cow_file.create(path, size_b=_DISK_CHUNKS * CHUNK_B)
    path.write_bytes(path.read_bytes()[:CHUNK_B] + b"\1" * (path.stat().st_size - CHUNK_B))
    with pytest.raises(DamagedSnapshot):
        cow_file.inspect(path)


def test_a_digest_does_not_depend_on_holes_and_sees_each_byte(tmp_path: Path) -> None:
    path = full(tmp_path / "layer")
    before = cow_file.digest(path)
    dense = tmp_path / "dense"
    dense.write_bytes(path.read_bytes())
    assert cow_file.digest(dense) == before
    with path.open("r+b") as file:
        file.seek(-1, os.SEEK_END)
        file.write(b"\1")
    assert cow_file.digest(path) != before
    moved = written(tmp_path / "moved", [(0, 3)])
    assert cow_file.digest(moved) != cow_file.digest(written(tmp_path / "other", [(0, 2)]))


def test_a_large_layer_has_no_digest(tmp_path: Path) -> None:
    path = tmp_path / "layer"
    cow_file.create(path, size_b=GIB)
    with path.open("r+b") as file:
        file.seek(2 * CHUNK_B)
        file.write(b"\1" * (64 * MIB - CHUNK_B))
    assert cow_file.digest(path)
    with path.open("ab") as file:
        file.write(b"\1")
    assert cow_file.digest(path) == ""


def test_chunks_are_written_to_their_places_and_nothing_beyond_the_end(tmp_path: Path) -> None:
    image = tmp_path / "image"
    image.write_bytes(b"\xff" * (500 * CHUNK_B))
    entries = [(10, 2), (11, 3), (3, 4), (499, 5), (500, 6), (599, 7)]
    path = written(tmp_path / "layer", entries)
    fd = os.open(image, os.O_RDWR)
    try:
        assert sum(cow_file.apply(path, fd)) == len(entries) * CHUNK_B
    finally:
        os.close(fd)
    assert image.stat().st_size == 500 * CHUNK_B
    chunks = np.frombuffer(image.read_bytes(), dtype="<i8").reshape(500, -1)
    for chunk in range(500):
        assert (chunks[chunk] == (chunk + 1 if chunk in (3, 10, 11, 499) else -1)).all()


def test_layers_are_laid_over_one_another(tmp_path: Path) -> None:
    numbers = np.random.default_rng(7)
    merged = tmp_path / "merged"
    cow_file.create(merged, size_b=_DISK_CHUNKS * CHUNK_B)
    expected: dict[int, int] = {}
    for layer in range(4):
        path = tmp_path / f"layer-{layer}"
        chunks = numbers.permutation(_DISK_CHUNKS)[: 300 if layer else 256].tolist()
        written(path, list(zip(chunks, kernel_order(len(chunks)), strict=True)))
        with path.open("r+b") as file:
            for chunk, place in zip(chunks, kernel_order(len(chunks)), strict=True):
                value = layer * 1000 + chunk
                file.seek(place * CHUNK_B)
                file.write(struct.pack("<q", value) * (CHUNK_B // 8))
                expected[chunk] = value
        assert sum(cow_file.absorb(merged, path)) == len(chunks) * CHUNK_B
        # As the kernel would have taken them.
        assert cow_file.inspect(merged).chunks[:, 1].tolist() == kernel_order(len(expected))
    content = cow_file.inspect(merged)
    found = {
        chunk: struct.unpack("<q", merged.read_bytes()[place * CHUNK_B : place * CHUNK_B + 8])[0]
        for chunk, place in content.chunks.tolist()
    }
    assert found == expected


def test_a_larger_layer_is_not_laid_over_a_smaller_one(tmp_path: Path) -> None:
    merged = tmp_path / "merged"
    cow_file.create(merged, size_b=10 * CHUNK_B)
    with pytest.raises(DamagedSnapshot):
        list(cow_file.absorb(merged, full(tmp_path / "layer", disk_chunks=20)))
