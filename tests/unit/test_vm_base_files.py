"""Bases: whole or not at all, and never restored when damaged."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from wrenn.base.units import MIB, PAGE_B
from wrenn.storage.errors import DamagedBase
from wrenn.vm import base_files as bases
from wrenn.vm.bases import base_key
from wrenn.vm.page_digest import PageDigest
from wrenn.vm.qemu.bases import QemuBase


def draft_of(root: Path) -> Path:
    draft = root / ".draft"
    draft.mkdir(parents=True)
    with (draft / "memory").open("wb") as memory:
        memory.truncate(4 * MIB)
        memory.seek(1 * MIB)
        memory.write(b"page of the guest" * 1000)
    for name in ("state", "disk.qcow2", "empty.qcow2", "rootfs.ext4"):
        (draft / name).write_bytes(name.encode() * 100)
    return draft


def published(root: Path) -> QemuBase:
    base = bases.publish(QemuBase, draft_of(root), root, key="k", facts={"vcpus": 1})
    for path in base.files:
        path.chmod(0o600)  # a test damages it, also when it is not root's
    return base


def test_a_published_base_is_found_and_its_memory_is_as_saved(tmp_path: Path) -> None:
    published(tmp_path)
    found = bases.find(QemuBase, tmp_path, "k")
    assert found is not None
    memory = bases.load_memory(found)
    try:
        assert os.pread(memory, 17, 1 * MIB) == b"page of the guest"
        assert os.fstat(memory).st_size == 4 * MIB
        with pytest.raises(PermissionError):
            os.pwrite(memory, b"x", 0)
    finally:
        os.close(memory)


def test_without_a_manifest_there_is_no_base(tmp_path: Path) -> None:
    (published(tmp_path).directory / "manifest.json").unlink()
    assert bases.find(QemuBase, tmp_path, "k") is None


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def remove_state(base: QemuBase) -> None:
    base.state.unlink()


DAMAGE: list[Callable[[QemuBase], object]] = [
    lambda base: flip(base.state),
    lambda base: flip(base.disk),
    lambda base: os.truncate(base.empty_disk, 10),
    lambda base: os.truncate(base.memory, MIB),
    remove_state,
    lambda base: (base.directory / "manifest.json").write_text("{"),
    lambda base: (base.directory / "manifest.json").write_text('{"format": 99, "key": "k"}'),
    lambda base: (base.directory / "manifest.json").write_text('{"format": 2, "key": "k"}'),
    lambda base: (base.directory / "manifest.json").write_text(
        '{"format": 2, "key": "k", "files": {"state": 1}}'
    ),
    lambda base: (base.directory / "manifest.json").write_text("[]"),
]


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_base_is_refused(tmp_path: Path, damage: Callable[[QemuBase], object]) -> None:
    damage(published(tmp_path))
    with pytest.raises(DamagedBase):
        bases.find(QemuBase, tmp_path, "k")


def test_altered_memory_is_refused_when_it_is_loaded(tmp_path: Path) -> None:
    base = published(tmp_path)
    with base.memory.open("r+b") as memory:
        memory.seek(3 * MIB)
        memory.write(b"!")
    found = bases.find(QemuBase, tmp_path, "k")
    assert found is not None
    with pytest.raises(DamagedBase):
        bases.load_memory(found)


def test_the_key_changes_with_every_fact() -> None:
    facts: dict[str, str | int] = {"kernel": "a", "vcpus": 1}
    keys = {
        base_key(facts),
        base_key({**facts, "kernel": "b"}),
        base_key({**facts, "vcpus": 2}),
    }
    assert len(keys) == 3
    assert base_key(dict(reversed(facts.items()))) == base_key(facts)


def test_a_page_digest_does_not_see_holes() -> None:
    page = b"x" * PAGE_B
    sparse, full = PageDigest(), PageDigest()
    sparse.update(PAGE_B, page)
    full.update(0, bytes(PAGE_B) + page + bytes(PAGE_B))
    assert sparse.hexdigest() == full.hexdigest()
    moved = PageDigest()
    moved.update(2 * PAGE_B, page)
    assert moved.hexdigest() != sparse.hexdigest()
