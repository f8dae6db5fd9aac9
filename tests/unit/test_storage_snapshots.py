"""Snapshots on the disk: what was written is found, what is not whole is refused, and one bad one does no harm to others."""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import xxhash

from wrenn.agent.doctor.owners import find_owners
from wrenn.agent.layout import Layout
from wrenn.agent.sandboxes import journal
from wrenn.agent.sandboxes.check_snapshot import check_intact
from wrenn.agent.sandboxes.journal import Record, SandboxSpec, State
from wrenn.agent.sandboxes.save_vm import SavedVm, Saver
from wrenn.base.clock import SystemClock
from wrenn.base.errors import NotFound
from wrenn.base.ids import SandboxId
from wrenn.base.units import PAGE_B
from wrenn.linux.process_memory import PageRuns, ProcessMemory
from wrenn.network import Block
from wrenn.storage import snapshots
from wrenn.storage.errors import DamagedSnapshot
from wrenn.storage.snapshots import Manifest, MemorySeal, Snapshot
from wrenn.vm import SavedMemory, Shape
from wrenn.vm.memory_diff import write_diff
from wrenn.vm.qemu import QemuDriver


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    layout = Layout(tmp_path, Block(0))
    for folder in (layout.snapshots, layout.layers, layout.bases):
        folder.mkdir()
    make_base(layout, "state")
    return layout


def driver_of(layout: Layout) -> QemuDriver:
    return QemuDriver(accelerator="tcg", version="7", folders=layout.folders)


def whole(layout: Layout, snapshot_id: str) -> Snapshot:
    return check_intact(layout, driver_of(layout), snapshot_id)


def make_base(layout: Layout, state: str) -> None:
    draft = layout.bases / ".draft"
    draft.mkdir()
    for name in ("memory", "disk.qcow2", "empty.qcow2", "rootfs.ext4"):
        (draft / name).write_bytes(name.encode().ljust(PAGE_B))
    (draft / "state").write_text(state)
    driver_of(layout).bases.publish(draft, key="key", facts={})


def publish(layout: Layout, name: str = "snap-1") -> Snapshot:
    draft = snapshots.draft_path(layout.snapshots, name)
    draft.mkdir()
    image = os.memfd_create("image")
    os.ftruncate(image, PAGE_B)
    # An empty range of this very process: nothing of it is looked at.
    size = write_diff(draft / "memory", _Untouched(os.getpid(), 0, PAGE_B), image)
    os.close(image)
    (draft / "state").write_bytes(b"devices")
    disks = driver_of(layout).disks
    layer = disks.path("layer-1")
    layer.unlink(missing_ok=True)
    layer.write_bytes(b"layer")
    manifest = Manifest(
        snapshot_id=name, sandbox_id="sb", template="t", vcpus=1, memory_mb=1, vmm="v", accelerator="a", machine="m",
        base="key", base_digest=driver_of(layout).bases.content_digest("key"), parent="", layers=(disks.seal("layer-1"),),
        created_at=1.0, metadata={}, memory_size_b=size.size_b, memory_digest=size.digest,
        state_size_b=7, state_digest=xxhash.xxh3_128_hexdigest(b"devices"),
    )  # fmt: skip
    return snapshots.publish(draft, layout.snapshots, manifest)


class _Untouched(ProcessMemory):
    def own_pages(self) -> PageRuns:
        return np.empty((0, 2), dtype=np.int64)


def test_what_was_published_is_found_whole(layout: Layout) -> None:
    made = publish(layout)
    assert whole(layout, "snap-1").manifest == made.manifest


def test_a_base_that_was_made_again_is_another_base(layout: Layout) -> None:
    publish(layout)
    make_base(layout, "state")
    whole(layout, "snap-1")
    make_base(layout, "other")
    with pytest.raises(DamagedSnapshot, match="made again"):
        whole(layout, "snap-1")


@pytest.mark.parametrize("name", ["disk.qcow2", "rootfs.ext4", "manifest.json"])
def test_a_torn_base_is_seen(layout: Layout, name: str) -> None:
    publish(layout)
    damaged = layout.bases / "key" / name
    damaged.chmod(0o600)
    os.truncate(damaged, 3)
    with pytest.raises(DamagedSnapshot, match="base"):
        whole(layout, "snap-1")


def test_another_format_and_an_altered_manifest_are_refused(layout: Layout) -> None:
    manifest = publish(layout).directory / "manifest.json"
    written = manifest.read_text()
    for field, value in (("format", 2), ("memory_mb", 2)):
        manifest.write_text(json.dumps({**json.loads(written), field: value}))
        with pytest.raises(DamagedSnapshot):
            snapshots.find(layout.snapshots, "snap-1")


def test_one_bad_snapshot_does_no_harm_to_others(layout: Layout) -> None:
    publish(layout)
    torn = publish(layout, "snap-2")
    (torn.directory / "memory").unlink()
    (torn.directory / "state").unlink()
    (layout.snapshots / "snap-3").write_text("a file")
    for name in ("snap-1", "snap-2"):
        snapshots.find(layout.snapshots, name).pin()
    found = list(snapshots.pinned_snapshots(layout.snapshots))
    assert [snapshot.manifest.snapshot_id for snapshot in found] == ["snap-1", "snap-2"]
    assert found[0].size_b > 0
    assert found[1].size_b == 0
    with pytest.raises(DamagedSnapshot):
        whole(layout, "snap-2")
    with pytest.raises(NotFound):
        snapshots.find(layout.snapshots, "snap-3")


def test_without_a_folder_there_are_no_snapshots(tmp_path: Path) -> None:
    assert list(snapshots.snapshot_ids(tmp_path / "none")) == []


def paused(layout: Layout, layer_ids: tuple[str, ...]) -> Record:
    spec = SandboxSpec(SandboxId.new(), "team", "t", Shape(1, 1))
    return Record(spec, State.PAUSED, base="key", layers=layer_ids, snapshot="snap-1")


async def publish_over(layout: Layout, record: Record, name: str) -> Snapshot:
    saver = Saver(layout, driver_of(layout), SystemClock())
    draft = saver.make_draft(name)
    (draft / "memory").touch()
    (draft / "state").write_bytes(b"devices")
    seal = MemorySeal(0, "", 7, xxhash.xxh3_128_hexdigest(b"devices"))
    return await saver.publish(SavedVm(draft, SavedMemory("", seal)), record, name, record.layers)


async def test_a_frozen_layer_keeps_its_first_seal(layout: Layout) -> None:
    first = publish(layout).manifest.layers[0]
    disks = driver_of(layout).disks
    layer = disks.path("layer-1")
    layer.chmod(0o600)
    layer.write_bytes(b"LAYER")
    driver_of(layout).disks.path("layer-2").write_bytes(b"new")
    made = await publish_over(layout, paused(layout, ("layer-2", "layer-1")), "snap-2")
    assert made.manifest.layer_ids == ("layer-2", "layer-1")
    assert made.manifest.layers[1] == first
    with pytest.raises(DamagedSnapshot):
        whole(layout, "snap-2")
    # What the VM wrote until now is sealed as it is now, whatever it was.
    top = await publish_over(layout, paused(layout, ("layer-1",)), "snap-3")
    assert top.manifest.layers[0] != first


async def test_a_sandbox_is_not_saved_over_a_base_made_again(layout: Layout) -> None:
    publish(layout)
    make_base(layout, "other")
    with pytest.raises(DamagedSnapshot, match="made again"):
        await publish_over(layout, paused(layout, ("layer-1",)), "snap-2")


async def test_doctor_names_the_files_that_paused_sandboxes_miss(layout: Layout) -> None:
    publish(layout).pin()
    (layout.snapshots / "snap-1" / "memory").unlink()
    record = paused(layout, ("layer-9", "layer-1"))
    directory = layout.sandbox(record.spec.sandbox_id)
    directory.mkdir(parents=True)
    journal.save(directory, record)
    owners = await find_owners(layout)
    assert owners.stored.missing == {"snap-1/memory", "layer-9"}


async def test_doctor_looks_at_an_installation_that_never_ran(tmp_path: Path) -> None:
    layout = Layout(tmp_path / "none", Block(0))
    owners = await find_owners(layout)
    assert owners.stored.missing == set()


def test_a_snapshot_whose_parents_lead_back_to_it_is_refused(layout: Layout) -> None:
    found = publish(layout)
    draft = snapshots.draft_path(layout.snapshots, "snap-2")
    shutil.copytree(found.directory, draft)
    snapshots.publish(draft, layout.snapshots, replace(found.manifest, snapshot_id="snap-2", parent="snap-2"))
    with pytest.raises(DamagedSnapshot, match="itself"):
        whole(layout, "snap-2")
