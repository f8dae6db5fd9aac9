"""A virtual machine that cannot be restored."""

from __future__ import annotations

from pathlib import Path

import pytest

from wrenn.vm import Confinement, Disk, RestoreRequest, Shape
from wrenn.vm.qemu import QemuDriver


@pytest.mark.parametrize("missing", ["state", "overlay"])
async def test_a_restore_that_cannot_start_leaves_no_descriptor(tmp_path: Path, missing: str) -> None:
    for name in ("state", "overlay", "image"):
        if name != missing:
            (tmp_path / name).write_bytes(b"x")
    before = len(list(Path("/proc/self/fd").iterdir()))
    request = RestoreRequest(
        directory=tmp_path,
        shape=Shape(1, 256),
        disk=Disk(tmp_path / "overlay", (), tmp_path / "image"),
        memory_fd=0,
        state=tmp_path / "state",
        tap_fd=0,
        confinement=Confinement(0, ()),
        fill=lambda _memory: None,
    )
    with pytest.raises(FileNotFoundError):
        await QemuDriver(accelerator="tcg", version="7").restore(request)
    assert len(list(Path("/proc/self/fd").iterdir())) == before
