"""A virtual machine that cannot be restored."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from wrenn.base.units import PAGE_B
from wrenn.linux.tap import NamedTap
from wrenn.storage.folders import Folders
from wrenn.vm import Confinement, DiskRef, ImageRef, RestoreRequest, Shape
from wrenn.vm.qemu import QemuDriver
from wrenn.vm.qemu.bases import QemuBase


class NoTap:
    """A link without a network."""

    address = "127.0.0.1"

    def open_tap(self) -> int:
        return os.open("/dev/null", os.O_RDWR | os.O_CLOEXEC)

    def give_tap(self, uid: int) -> NamedTap:
        raise AssertionError(uid)


@pytest.mark.parametrize("missing", ["state", "disk.qcow2"])
async def test_a_restore_that_cannot_start_leaves_no_descriptor(tmp_path: Path, missing: str) -> None:
    folders = Folders(tmp_path)
    driver = QemuDriver(accelerator="tcg", version="7", folders=folders)
    draft = folders.bases / ".draft"
    draft.mkdir(parents=True)
    base = QemuBase("key", draft)
    for path in (*base.files, base.image):
        path.write_bytes(b"x" * PAGE_B)
    driver.bases.publish(draft, key="key", facts={})
    (folders.bases / "key" / missing).unlink()
    folders.layers.mkdir()
    driver.disks.path("layer-1").write_bytes(b"x")
    before = len(list(Path("/proc/self/fd").iterdir()))
    request = RestoreRequest(
        directory=tmp_path,
        shape=Shape(1, 256),
        disk=DiskRef(("layer-1",), "key"),
        image=ImageRef("key"),
        link=NoTap(),
        confinement=Confinement(0, ()),
    )
    with pytest.raises(FileNotFoundError):
        await driver.restore(request)
    await driver.close()
    assert len(list(Path("/proc/self/fd").iterdir())) == before
