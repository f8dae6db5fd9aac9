"""The formats that images are made of: initramfs archives and packed kernels."""

from __future__ import annotations

import gzip
import lzma
import shutil
import stat
import struct
import subprocess
from pathlib import Path

import pytest

from wrenn.base.errors import InvalidState
from wrenn.storage.images.bzimage import unpack_vmlinux
from wrenn.storage.images.cpio import archive, character_device, directory, regular

_ENTRIES = [
    regular("init", b"\x7fELF program", permissions=0o755),
    character_device("dev/console", 5, 1),
    directory("dev"),
    regular("modules.list", b"/modules/virtio.ko\n"),
]


def _members(data: bytes) -> list[tuple[str, list[int], bytes]]:
    """Read a newc archive as the kernel's documentation describes it."""
    found: list[tuple[str, list[int], bytes]] = []
    position = 0
    while True:
        assert data[position : position + 6] == b"070701"
        fields = [int(data[position + 6 + 8 * n : position + 14 + 8 * n], 16) for n in range(13)]
        size_b, name_b = fields[6], fields[11]
        name = data[position + 110 : position + 110 + name_b - 1].decode()
        position = (position + 110 + name_b + 3) // 4 * 4
        if name == "TRAILER!!!":
            assert position == len(data)
            return found
        found.append((name, fields, data[position : position + size_b]))
        position = (position + size_b + 3) // 4 * 4


def test_an_archive_has_folders_before_their_content_and_root_as_owner() -> None:
    members = _members(archive(_ENTRIES))
    assert [name for name, _, _ in members] == ["dev", "dev/console", "init", "modules.list"]
    for _, fields, _ in members:
        assert fields[2] == fields[3] == fields[5] == 0  # uid, gid, mtime
    content = {name: body for name, _, body in members}
    assert content["init"] == b"\x7fELF program"
    modes = {name: fields[1] for name, fields, _ in members}
    assert modes["init"] == stat.S_IFREG | 0o755
    console = next(fields for name, fields, _ in members if name == "dev/console")
    assert stat.S_ISCHR(console[1])
    assert (console[9], console[10]) == (5, 1)


def test_the_same_content_gives_the_same_archive_in_any_order() -> None:
    assert archive(_ENTRIES) == archive(list(reversed(_ENTRIES)))


@pytest.mark.skipif(shutil.which("cpio") is None, reason="no cpio program to compare with")
def test_the_archive_is_read_by_cpio() -> None:
    listing = subprocess.run(
        ["cpio", "-t", "--quiet"], input=archive(_ENTRIES), capture_output=True, check=True
    )
    assert listing.stdout.decode().split() == ["dev", "dev/console", "init", "modules.list"]


def _elf(note_kind: int) -> bytes:
    """A 64-bit ELF file whose only segment holds one note of Xen."""
    note = struct.pack("<III", 4, 4, note_kind) + b"Xen\0" + struct.pack("<I", 0x1000000)
    header = b"\x7fELF\x02\x01\x01".ljust(16, b"\0") + struct.pack(
        "<HHIQQQIHHHHHH", 2, 62, 1, 0, 64, 0, 0, 64, 56, 1, 0, 0, 0
    )
    segment = struct.pack("<IIQQQQQQ", 4, 4, 120, 0, 0, len(note), len(note), 4)
    return header + segment + note + bytes(10_000)


_ELF = _elf(18)


def _bzimage(payload: bytes, size_b: int, *, append_size: bool = True) -> bytes:
    if append_size:
        payload += struct.pack("<I", size_b)
    image = bytearray(1024)
    image[0x1F1] = 1  # one setup sector behind the boot sector
    image[0x202:0x206] = b"HdrS"
    struct.pack_into("<II", image, 0x248, 16, len(payload))
    return bytes(image) + bytes(16) + payload + b"trailing signature"


def _packed_by(program: list[str]) -> bytes:
    if shutil.which(program[0]) is None:
        pytest.skip(f"{program[0]} is not installed")
    return subprocess.run(program, input=_ELF, capture_output=True, check=True).stdout


async def _unpack(tmp_path: Path, image: bytes) -> bytes:
    (tmp_path / "vmlinuz").write_bytes(image)
    await unpack_vmlinux(tmp_path / "vmlinuz", tmp_path / "vmlinux")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["vmlinux", "vmlinuz"]
    return (tmp_path / "vmlinux").read_bytes()


async def test_a_gzip_kernel_is_unpacked(tmp_path: Path) -> None:
    assert await _unpack(tmp_path, _bzimage(gzip.compress(_ELF), len(_ELF), append_size=False)) == _ELF


async def test_an_xz_kernel_is_unpacked(tmp_path: Path) -> None:
    assert await _unpack(tmp_path, _bzimage(lzma.compress(_ELF), len(_ELF))) == _ELF


@pytest.mark.parametrize("program", [["lz4", "-l", "-c"], ["zstd", "-c"]])
async def test_an_lz4_or_zstd_kernel_is_unpacked(tmp_path: Path, program: list[str]) -> None:
    assert await _unpack(tmp_path, _bzimage(_packed_by(program), len(_ELF))) == _ELF


@pytest.mark.parametrize(
    ("image", "complaint"),
    [
        (b"", "not an x86 bzImage"),
        (bytes(4096), "not an x86 bzImage"),
        (_bzimage(b"????", 4), "unknown way"),
        (_bzimage(lzma.compress(_ELF), len(_ELF) + 1), "wrong size"),
        (_bzimage(lzma.compress(_elf(17)), len(_ELF)), "no PVH entry"),
        (_bzimage(lzma.compress(b"\x7fELF\x01\x01"), 6), "no PVH entry"),
        (_bzimage(lzma.compress(_ELF)[:-40], len(_ELF)), "damaged"),
        (_bzimage(gzip.compress(_ELF)[:-40], len(_ELF), append_size=False), "damaged"),
    ],
)
async def test_a_kernel_that_cannot_be_started_is_refused(
    tmp_path: Path, image: bytes, complaint: str
) -> None:
    with pytest.raises(InvalidState, match=complaint):
        await _unpack(tmp_path, image)
