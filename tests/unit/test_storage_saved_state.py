"""The table and chunks of a saved state: what was written is read, and nothing that a hostile host writes leads out of a folder."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from wrenn.base.errors import InvalidState, TooLarge
from wrenn.base.ids import SandboxId, SnapshotId
from wrenn.base.secrets import Secret
from wrenn.protocol.image_manifest import CHUNK_B
from wrenn.storage.errors import DamagedSnapshot
from wrenn.storage.layers import LayerSeal, new_layer_id
from wrenn.storage.objects import StateReader, StateTable, StateWriter, StoredBase, StoredFile
from wrenn.storage.snapshots import Manifest

BASE, DIGEST = "ab" * 12, "cd" * 32


def manifest(*, parent: str = "") -> Manifest:
    return Manifest(
        snapshot_id=str(SnapshotId.new()),
        sandbox_id=str(SandboxId.new()),
        template="minimal",
        vcpus=1,
        memory_mb=256,
        vmm="qemu",
        accelerator="tcg",
        machine="q35",
        base=BASE,
        base_digest=DIGEST,
        parent=parent,
        layers=(LayerSeal(new_layer_id(), 1, "x"),),
        created_at=1.5,
        metadata={"arch": "x86_64"},
    )


def table(sizes: dict[str, int] | None = None) -> StateTable:
    below = manifest()
    top = manifest(parent=below.snapshot_id)
    sizes = sizes or {}
    names = [
        "base/memory",
        f"snapshots/{below.snapshot_id}/state",
        f"snapshots/{top.snapshot_id}/state",
        *(f"layers/{layer}" for layer in (*below.layer_ids, *top.layer_ids)),
    ]
    return StateTable(
        token=Secret("ef" * 32),
        held=True,
        disk_mb=0,
        origin_layers=below.layer_ids,
        versions={"kernel_version": "6.1"},
        snapshots=(top, below),
        base=StoredBase(BASE, {"template": "minimal", "vcpus": 1}, DIGEST),
        files=[StoredFile(name, sizes.get(name, 1 + index)) for index, name in enumerate(names)],
    )


def test_a_table_is_read_as_it_was_written_and_does_not_show_its_token() -> None:
    written = table()
    read = StateTable.decode(written.encode())
    assert replace(read, token=written.token, files=list(read.files)) == written
    assert read.token.reveal() == written.token.reveal()
    assert "efef" not in repr(read)
    assert len(written.encode()) == CHUNK_B


def test_files_are_written_as_they_were_read_with_their_holes(tmp_path: Path) -> None:
    written = table({"base/memory": 3 * CHUNK_B + 5})
    paths: dict[str, Path] = {}
    for index, file in enumerate(written.files):
        paths[file.name] = tmp_path / f"in-{index}"
        with paths[file.name].open("wb") as out:
            out.truncate(file.size_b)
            out.seek(max(0, file.size_b - 4))
            out.write(b"data"[: file.size_b])
    with StateReader(written, paths) as reader:
        assert reader.size_b == written.size_b == reader.chunk_count * CHUNK_B
        chunks = {index: data for index in reader.data_chunks() if (data := reader.read(index))}
    assert set(chunks) == set(range(9)) - {1, 2, 3}, "holes are no chunks"
    assert all(len(data) == CHUNK_B for data in chunks.values())
    wanted = {file.name: tmp_path / f"out-{index}" for index, file in enumerate(written.files) if index != 1}
    indexes = written.indexes(wanted)
    assert indexes == [1, 2, 3, 4, 6, 7, 8]
    with StateWriter(StateTable.decode(chunks[0]), wanted) as writer:
        for index in indexes:
            if index in chunks:
                writer.write(index, chunks[index])
        writer.sync()
    for name, path in wanted.items():
        assert path.read_bytes() == paths[name].read_bytes()
    with pytest.raises(DamagedSnapshot, match="altered"):
        StateReader(table(), dict.fromkeys((file.name for file in table().files), tmp_path / "in-0"))


def set_field(*path: Any, to: Any) -> Callable[[dict[str, Any]], None]:
    def change(content: Any) -> None:
        for key in path[:-1]:
            content = content[key]
        content[path[-1]] = to

    return change


@pytest.mark.parametrize(
    "change",
    [
        set_field("token", to="x"),
        set_field("token", to="../../etc/passwd"),
        set_field("base", "key", to="../.."),
        set_field("base", "digest", to=""),
        set_field("base", "facts", to=[]),
        set_field("base", "facts", to={"a": "x" * 10_000}),
        set_field("files", to=[]),
        set_field("files", 0, to=["base/../../../etc/passwd", 1]),
        set_field("files", 0, to=["/etc/passwd", 1]),
        set_field("files", 0, to=["base/.draft", 1]),
        set_field("files", 0, to=["base/a/b", 1]),
        set_field("files", 0, to=["snapshots/other/state", 1]),
        set_field("files", 0, to=["layers/layer-0123456789abcdef", 1]),
        set_field("files", 0, 1, to=-1),
        set_field("files", 0, 1, to=1 << 60),
        set_field("files", 0, 1, to=True),
        set_field("files", 1, 0, to="base/memory"),
        set_field("files", to=[["base/memory", 1]]),
        set_field("snapshots", to=[]),
        set_field("snapshots", 0, "snapshot_id", to="../x"),
        set_field("snapshots", 0, "parent", to=""),
        set_field("snapshots", 1, "parent", to="snap-x"),
        set_field("snapshots", 0, "base", to="00" * 12),
        set_field("snapshots", 0, "base_digest", to="00" * 32),
        set_field("snapshots", 0, "layers", 0, "layer_id", to="../../x"),
        set_field("snapshots", 0, "unknown", to=1),
        set_field("sandbox", "origin_layers", to=["../x"]),
        set_field("sandbox", "versions", to={str(number): "" for number in range(100)}),
        set_field("sandbox", to=None),
    ],
)
def test_a_table_that_a_hostile_host_wrote_is_refused(change: Callable[[dict[str, Any]], None]) -> None:
    content = json.loads(table().encode())
    change(content)
    with pytest.raises(DamagedSnapshot):
        StateTable.decode(json.dumps(content).encode())


@pytest.mark.parametrize("data", [b"", b"[]", b"null", b"\xff", b"[" * 100_000, b'{"format":1}'])
def test_what_is_no_table_is_refused(data: bytes) -> None:
    with pytest.raises(DamagedSnapshot):
        StateTable.decode(data)


def test_a_newer_format_is_named_as_such() -> None:
    with pytest.raises(InvalidState, match="format"):
        StateTable.decode(b'{"format":2}')


def test_a_table_of_too_many_files_is_not_written() -> None:
    with pytest.raises(TooLarge):
        replace(table(), files=[StoredFile(f"base/{number}", 1) for number in range(300)]).encode()
