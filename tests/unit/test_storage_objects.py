"""Images as chunks: sparse files are split and made again, and nothing that a store or a host may send does harm."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from wrenn.base.errors import InvalidRequest
from wrenn.base.ids import ImageId
from wrenn.base.units import MIB
from wrenn.protocol.image_manifest import CHUNK_B, CHUNK_STORED_LIMIT_B, IMAGE_LIMIT_B, Manifest, digest_of
from wrenn.storage.objects import DamagedChunk, SparseReader, SparseWriter, compress, decompress


def sparse_file(path: Path, size_b: int, data: dict[int, bytes]) -> Path:
    with path.open("wb") as file:
        file.truncate(size_b)
        for at, content in data.items():
            file.seek(at)
            file.write(content)
    return path


def test_a_sparse_file_is_split_and_made_again_with_its_holes(tmp_path: Path):
    size_b = 64 * MIB + 4321
    noise = os.urandom(10_000)
    source = sparse_file(
        tmp_path / "a", size_b, {3 * MIB - 5000: noise, 40 * MIB: b"x" * 4096, size_b - 3: b"end"}
    )
    with SparseReader(source) as reader, SparseWriter(tmp_path / "b", size_b) as writer:
        assert reader.chunk_count == 65
        assert list(reader.data_chunks()) == [2, 3, 40, 64]
        for index in reader.data_chunks():
            data = reader.read(index)
            frame = compress(data)
            assert len(frame) <= CHUNK_STORED_LIMIT_B
            writer.write(index, decompress(frame, digest=digest_of(data), size_b=len(data)))
        writer.sync()
    assert (tmp_path / "b").read_bytes() == source.read_bytes()
    assert (tmp_path / "b").stat().st_blocks <= 4 * 2048 + 64


def test_zeros_that_are_written_count_as_a_hole(tmp_path: Path):
    source = sparse_file(tmp_path / "a", 2 * MIB, {0: bytes(MIB), MIB: b"1"})
    with SparseReader(source) as reader:
        assert list(reader.data_chunks()) == [0, 1]
        assert reader.read(0) == b""
        assert reader.read(1)[:1] == b"1"


def test_data_that_cannot_be_compressed_fits_the_limit_of_an_object():
    assert len(compress(os.urandom(CHUNK_B))) <= CHUNK_STORED_LIMIT_B


def test_a_chunk_that_was_altered_cut_or_swapped_is_refused():
    data, other = os.urandom(5000), os.urandom(5000)
    frame, digest = compress(data), digest_of(data)
    altered = bytearray(frame)
    altered[-1] ^= 1
    for wrong in (bytes(altered), frame[:-1], compress(other), b"", b"no frame", compress(data + b"1")):
        with pytest.raises(DamagedChunk):
            decompress(wrong, digest=digest, size_b=len(data))


def test_a_bomb_is_refused_by_the_size_it_names_and_by_the_size_it_has():
    bomb = compress(bytes(200 * MIB))
    assert len(bomb) < 100_000
    with pytest.raises(DamagedChunk, match="another size"):
        decompress(bomb, digest="0" * 64, size_b=CHUNK_B)
    unsaid = zstandard.ZstdCompressor(level=3, write_content_size=False).compress(bytes(200 * MIB))
    with pytest.raises(DamagedChunk):
        decompress(unsaid, digest="0" * 64, size_b=CHUNK_B)


def test_a_manifest_is_written_and_read():
    manifest = Manifest(ImageId.new(), 3 * MIB + 1, ("ab" * 32, None, "ab" * 32, "cd" * 32))
    assert Manifest.decode(manifest.encode()) == manifest
    assert manifest.digests == {"ab" * 32, "cd" * 32}
    assert [manifest.chunk_size_b(index) for index in range(4)] == [MIB, MIB, MIB, 1]


GOOD = json.loads(Manifest(ImageId.new(), 2 * MIB, (None, "ab" * 32)).encode())


@pytest.mark.parametrize(
    "change",
    [
        {"format": 2},
        {"format": True},
        {"image_id": "cl-" + "0" * 25},
        {"image_id": 5},
        {"size_b": 0},
        {"size_b": -1},
        {"size_b": 2.0 * MIB},
        {"size_b": True},
        {"size_b": IMAGE_LIMIT_B + 1},
        {"chunk_b": 2 * MIB},
        {"chunks": [None]},
        {"chunks": [None, "AB" * 32]},
        {"chunks": [None, "ab" * 32 + "\n"]},
        {"chunks": [None, "../" + "a" * 61]},
        {"chunks": [None, 0]},
        {"chunks": {"0": None, "1": None}},
        {"more": 1},
    ],
)
def test_a_manifest_that_breaks_a_rule_is_refused(change: dict[str, object]):
    with pytest.raises(InvalidRequest):
        Manifest.decode(json.dumps({**GOOD, **change}).encode())


@pytest.mark.parametrize(
    "data",
    [b"", b"[]", b"null", b"{}", b"\xff", b"[" * 100_000, b'{"format":NaN}', json.dumps(GOOD)[:-1].encode()],
)
def test_what_is_no_manifest_is_refused(data: bytes):
    with pytest.raises(InvalidRequest):
        Manifest.decode(data)


@given(st.binary(max_size=200))
@settings(max_examples=200, deadline=None)
def test_any_bytes_are_either_a_manifest_or_refused(data: bytes):
    for attempt in (data, json.dumps(GOOD).encode()[:-1] + data):
        try:
            Manifest.decode(attempt)
        except InvalidRequest:
            continue
        assert json.loads(attempt) == GOOD
