"""What an agent makes of a paused sandbox after a power cut, by the layers of its disk. Large layers have no digest."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pytest

from wrenn.agent.layout import Layout
from wrenn.agent.recovery.check_paused import DOUBTFUL, WENT_BACK, checked
from wrenn.agent.sandboxes.journal import Record, SandboxSpec, State
from wrenn.base.ids import SandboxId
from wrenn.base.units import MIB, PAGE_B
from wrenn.linux.boot import boot_id
from wrenn.network import Block
from wrenn.storage import snapshots
from wrenn.storage.snapshots import Manifest
from wrenn.vm import Shape
from wrenn.vm.qemu import QemuDriver

LARGE_B = 65 * MIB


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    layout = Layout(tmp_path, Block(0))
    for folder in (layout.snapshots, layout.layers, layout.bases):
        folder.mkdir()
    draft = layout.bases / ".draft"
    draft.mkdir()
    for name in ("memory", "state", "disk.qcow2", "empty.qcow2", "rootfs.ext4"):
        (draft / name).write_bytes(name.encode().ljust(PAGE_B))
    driver_of(layout).bases.publish(draft, key="key", facts={})
    return layout


def driver_of(layout: Layout) -> QemuDriver:
    return QemuDriver(accelerator="tcg", version="7", folders=layout.folders)


def publish(layout: Layout, name: str, *layer_ids: str, size_b: int = LARGE_B) -> None:
    """A snapshot without memory, on these layers; those that do not exist are made."""
    disks = driver_of(layout).disks
    for path in map(disks.path, layer_ids):
        if not path.exists():
            path.touch()
            os.truncate(path, size_b)
    draft = snapshots.draft_path(layout.snapshots, name)
    draft.mkdir()
    manifest = Manifest(
        snapshot_id=name, sandbox_id="sb", template="t", vcpus=1, memory_mb=1, vmm="v", accelerator="a", machine="m",
        base="key", base_digest=driver_of(layout).bases.content_digest("key"), parent="", layers=tuple(map(disks.seal, layer_ids)),
        created_at=1.0, metadata=snapshots.write_disk_only(draft),
    )  # fmt: skip
    snapshots.publish(draft, layout.snapshots, manifest)


def paused(boot: str, *, former: str = "snap-1") -> Record:
    spec = SandboxSpec(SandboxId.new(), "team", "minimal", Shape(1, 512))
    return Record(
        spec, State.PAUSED, base="key", layers=("layer-2", "layer-1"),
        snapshot="snap-2", former_snapshot=former, unflushed_boot=boot,
    )  # fmt: skip


def check(layout: Layout, record: Record) -> Record:
    return checked(layout, driver_of(layout), record)


def test_after_a_power_cut_a_large_layer_that_was_not_flushed_is_not_trusted(layout: Layout) -> None:
    publish(layout, "snap-1", "layer-1")
    publish(layout, "snap-2", "layer-2", "layer-1")
    record = paused("another boot")
    found = check(layout, record)
    assert (found.snapshot, found.layers, found.reason) == ("snap-1", ("layer-1",), WENT_BACK)
    assert (found.state, found.is_flushed, found.held) == (State.PAUSED, True, False)


def test_in_the_same_boot_it_is_trusted(layout: Layout) -> None:
    publish(layout, "snap-1", "layer-1")
    publish(layout, "snap-2", "layer-2", "layer-1")
    record = paused(boot_id())
    assert check(layout, record) == record


def test_after_a_power_cut_layers_with_digests_and_those_of_the_pause_before_are_trusted(
    layout: Layout,
) -> None:
    publish(layout, "snap-1", "layer-1")
    publish(layout, "snap-2", "layer-2", "layer-1", size_b=MIB)
    record = paused("another boot")
    assert check(layout, record) == record


def test_a_flushed_pause_is_trusted_after_any_boot(layout: Layout) -> None:
    publish(layout, "snap-2", "layer-2", "layer-1")
    record = paused("", former="")
    assert check(layout, record) == record


def test_without_a_pause_before_the_sandbox_says_that_its_disk_is_doubtful(layout: Layout) -> None:
    publish(layout, "snap-2", "layer-2", "layer-1")
    record = paused("another boot", former="")
    assert check(layout, record) == replace(record, reason=DOUBTFUL)
    assert check(layout, paused("another boot", former="snap-1")).reason == DOUBTFUL, "that is missing"


def test_a_damaged_pause_goes_back_or_is_lost(layout: Layout) -> None:
    publish(layout, "snap-1", "layer-1")
    publish(layout, "snap-2", "layer-2", "layer-1")
    os.truncate(driver_of(layout).disks.path("layer-2"), MIB)
    assert check(layout, paused("another boot")).snapshot == "snap-1"
    found = check(layout, paused("another boot", former=""))
    assert (found.state, found.snapshot) == (State.LOST, "snap-2")


def test_a_journal_of_a_former_version_is_believed_if_all_that_can_be_checked_is_whole(
    layout: Layout,
) -> None:
    publish(layout, "snap-1", "layer-1")
    publish(layout, "snap-2", "layer-2", "layer-1")
    record = paused("")
    assert check(layout, record) == record
