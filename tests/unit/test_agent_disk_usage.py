"""What a sandbox takes of the host's disk includes what its VMM writes into its jail."""

from __future__ import annotations

from pathlib import Path

import pytest

from wrenn.agent.layout import Layout
from wrenn.agent.sandboxes import disk_usage
from wrenn.agent.sandboxes.disk_usage import DiskUsage
from wrenn.agent.sandboxes.journal import Record, SandboxSpec, State
from wrenn.base.ids import SandboxId
from wrenn.base.units import MIB
from wrenn.network import Block
from wrenn.storage.layers import new_layer_id
from wrenn.vm import Shape
from wrenn.vm.firecracker.bases import FirecrackerBases
from wrenn.vm.firecracker.disks import DmDisks

_MEMORY_MB = 1


@pytest.fixture
def record() -> Record:
    spec = SandboxSpec(SandboxId.new(), "team", "minimal", Shape(1, _MEMORY_MB))
    return Record(spec, State.RUNNING, layers=(new_layer_id(),))


@pytest.fixture
def layout(tmp_path: Path, record: Record) -> Layout:
    layout = Layout(tmp_path, Block(3))
    _jail(layout, record).mkdir(parents=True)
    return layout


def _jail(layout: Layout, record: Record) -> Path:
    return layout.sandbox(record.spec.sandbox_id) / "firecracker" / "firecracker" / "vm" / "root"


def _used_b(layout: Layout, record: Record) -> int:
    disks = DmDisks(layout.layers, FirecrackerBases(layout.bases), prefix="wrenn-test")
    return DiskUsage(layout, disks).measure([record])[record.spec.sandbox_id]


def _write(path: Path, size_mb: int) -> Path:
    path.write_bytes(b"x" * size_mb * MIB)
    return path


def test_what_is_written_into_a_jail_counts_beyond_what_a_vm_needs_there(
    layout: Layout, record: Record
) -> None:
    _write(layout.sandbox(record.spec.sandbox_id) / "vmm.log", 1)
    before_b = _used_b(layout, record)
    assert MIB <= before_b < 2 * MIB
    # The memory as it was resumed, and what changed since.
    _write(_jail(layout, record) / "memory", _MEMORY_MB)
    _write(_jail(layout, record) / "dirtied", _MEMORY_MB)
    small_b = _used_b(layout, record) - before_b
    assert small_b < MIB
    hidden = _jail(layout, record) / "a" / "b"
    hidden.mkdir(parents=True)
    _write(hidden / "own", 5)
    assert 5 * MIB <= _used_b(layout, record) - before_b < 6 * MIB


def test_a_vmm_with_files_without_number_takes_more_than_anybody_may(
    layout: Layout, record: Record, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(disk_usage, "_MOST_FILES", 20)
    for number in range(20):
        (_jail(layout, record) / f"{number}").touch()
    assert _used_b(layout, record) > 1 << 60


def test_files_cannot_be_hidden_in_deep_folders(layout: Layout, record: Record) -> None:
    folder = _jail(layout, record).joinpath(*["d"] * 20)
    folder.mkdir(parents=True)
    _write(folder / "own", 5)
    assert 3 * MIB <= _used_b(layout, record) < 4 * MIB
    folder.joinpath(*["d"] * 20).mkdir(parents=True)
    assert _used_b(layout, record) > 1 << 60


def test_a_memory_image_that_machines_share_is_not_counted(layout: Layout, record: Record) -> None:
    if layout.data_dir.stat().st_uid:
        pytest.skip("only root's files are known to be shared")
    image = _write(layout.data_dir / "image", 8)
    (_jail(layout, record) / "memory").hardlink_to(image)
    assert _used_b(layout, record) < MIB
