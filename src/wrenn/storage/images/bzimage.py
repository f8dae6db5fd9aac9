"""Extracts the ELF kernel, which a VMM can start directly (PVH), from a distribution's `vmlinuz`."""

from __future__ import annotations

import lzma
import struct
import zlib
from pathlib import Path
from typing import Final

from wrenn.base.errors import InvalidState
from wrenn.linux.command import CommandError, run

_UNPACK_TIMEOUT_S: Final = 60.0

# Offsets in the x86 boot protocol's setup header.
_SETUP_SECTORS: Final = 0x1F1
_HEADER_MAGIC: Final = 0x202
_PAYLOAD_OFFSET: Final = 0x248
_SECTOR_B: Final = 512

_PT_NOTE: Final = 4
_XEN_ELFNOTE_PHYS32_ENTRY: Final = 18
"""The note that holds the entry point for PVH: without it QEMU and Firecracker cannot start the ELF file."""


async def unpack_vmlinux(vmlinuz: Path, vmlinux: Path) -> None:
    """Write the ELF kernel inside `vmlinuz` to `vmlinux`, using `vmlinux.packed` beside it as a temporary file.

    Raises:
        InvalidState: not a bzImage, an unknown compression, or a kernel without a PVH entry.
    """
    payload, size_b = _payload(vmlinuz.read_bytes(), name=vmlinuz.name)
    try:
        if payload.startswith(b"\x1f\x8b\x08"):
            vmlinux.write_bytes(zlib.decompress(payload, wbits=31))
        elif payload.startswith(b"\xfd7zXZ\0"):
            vmlinux.write_bytes(lzma.decompress(payload))
        elif payload.startswith(b"\x02\x21\x4c\x18"):
            await _unpack_with("lz4", payload, vmlinux)
        elif payload.startswith(b"\x28\xb5\x2f\xfd"):
            await _unpack_with("zstd", payload, vmlinux)
        else:
            raise InvalidState(
                f"The kernel {vmlinuz.name} is packed in an unknown way ({payload[:4].hex()} …)."
            )
    except (zlib.error, lzma.LZMAError, CommandError) as error:
        raise InvalidState(f"The kernel {vmlinuz.name} cannot be unpacked: the file is damaged.") from error
    if vmlinux.stat().st_size != size_b:
        raise InvalidState(f"The kernel {vmlinuz.name} unpacked to a wrong size: the file is damaged.")
    if not _has_pvh_entry(vmlinux.read_bytes()):
        raise InvalidState(
            f"The kernel {vmlinuz.name} has no PVH entry point (CONFIG_PVH): a VMM cannot start it."
        )


def _payload(image: bytes, *, name: str) -> tuple[bytes, int]:
    """Return the compressed kernel and its uncompressed size, which the build appends as four bytes."""
    if image[_HEADER_MAGIC : _HEADER_MAGIC + 4] != b"HdrS":
        raise InvalidState(f"The kernel {name} is not an x86 bzImage.")
    offset, length = struct.unpack_from("<II", image, _PAYLOAD_OFFSET)
    start = (image[_SETUP_SECTORS] + 1) * _SECTOR_B + offset
    (size_b,) = struct.unpack_from("<I", image, start + length - 4)
    # gzip's own trailer is that size; other formats have it behind their end.
    is_gzip = image[start : start + 2] == b"\x1f\x8b"
    return image[start : start + length - (0 if is_gzip else 4)], size_b


async def _unpack_with(program: str, payload: bytes, vmlinux: Path) -> None:
    packed = vmlinux.with_name("vmlinux.packed")
    packed.write_bytes(payload)
    # The two programs name their output differently.
    files = [str(packed), str(vmlinux)] if program == "lz4" else [str(packed), "-o", str(vmlinux)]
    await run([program, "-d", "-q", "-f", *files], timeout_s=_UNPACK_TIMEOUT_S)
    packed.unlink()


def _has_pvh_entry(elf: bytes) -> bool:
    if elf[:6] != b"\x7fELF\x02\x01":
        return False
    (table,) = struct.unpack_from("<Q", elf, 0x20)
    entry_b, count = struct.unpack_from("<HH", elf, 0x36)
    for index in range(count):
        kind, _, offset, _, _, length = struct.unpack_from("<IIQQQQ", elf, table + index * entry_b)
        if kind == _PT_NOTE and _XEN_ELFNOTE_PHYS32_ENTRY in _xen_notes(elf[offset : offset + length]):
            return True
    return False


def _xen_notes(notes: bytes) -> set[int]:
    kinds: set[int] = set()
    position = 0
    while position + 12 <= len(notes):
        name_b, desc_b, kind = struct.unpack_from("<III", notes, position)
        if notes[position + 12 : position + 12 + name_b] == b"Xen\0":
            kinds.add(kind)
        position += 12 + (name_b + 3) // 4 * 4 + (desc_b + 3) // 4 * 4
    return kinds
