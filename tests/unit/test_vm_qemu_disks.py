"""What the host does with qcow2 files that a VMM wrote, which may have been taken over by its guest."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest

from wrenn.storage.errors import DamagedSnapshot
from wrenn.vm.disks import DiskRef
from wrenn.vm.qemu.bases import QemuBases
from wrenn.vm.qemu.disks import Qcow2Disks

MIB = 1 << 20


def header(*, size_b: int, incompatible: int = 0) -> bytes:
    """The begin of a qcow2 file: magic, version 3, no backing file, size of the disk, and the incompatible features."""
    head = bytearray(104)
    struct.pack_into(">4sI", head, 0, b"QFI\xfb", 3)
    struct.pack_into(">Q", head, 24, size_b)
    struct.pack_into(">Q", head, 72, incompatible)
    return bytes(head)


@pytest.fixture
def disks(tmp_path: Path) -> Qcow2Disks:
    (tmp_path / "layers").mkdir()
    return Qcow2Disks(tmp_path / "layers", QemuBases(tmp_path / "bases"))


async def test_no_program_of_the_host_opens_a_layer_that_a_vmm_wrote(
    disks: Qcow2Disks, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # With an external data file in its header, qemu-img would open that file, for writing when it resizes.
    disks.path("layer-taken").write_bytes(header(size_b=512, incompatible=1 << 2))
    monkeypatch.setenv("PATH", str(tmp_path))  # no program is found
    with pytest.raises(DamagedSnapshot, match="smaller"):
        await disks.create("layer-new", DiskRef((), "base"), size_b=MIB, copy_of="layer-taken")
    assert disks.list_ids() == ["layer-taken"]
    disks.path("layer-large").write_bytes(header(size_b=2 * MIB, incompatible=1 << 2))
    await disks.create("layer-new", DiskRef((), "base"), size_b=MIB, copy_of="layer-large")
    assert disks.path("layer-new").read_bytes() == disks.path("layer-large").read_bytes()


@pytest.mark.parametrize(
    ("content", "size_b"), [(header(size_b=5 * MIB), 5 * MIB), (b"QFI\xfb", 0), (b"", 0)]
)
def test_the_size_of_a_layer_is_what_its_header_says(disks: Qcow2Disks, content: bytes, size_b: int) -> None:
    disks.path("layer-one").write_bytes(content)
    assert disks.size_b("layer-one") == size_b
