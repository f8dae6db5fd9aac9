"""Reads the headers of a tar archive of a client, which is not trusted: every length, name and number is checked.

Formats: ustar, GNU and POSIX (pax). Files with holes are refused, since no packer writes them unless it is asked to.
"""

from __future__ import annotations

import posixpath
from dataclasses import dataclass, replace
from enum import Enum
from typing import BinaryIO, Final

from wrenn.base.errors import InvalidRequest
from wrenn.recipe.limits import MAX_CONTEXT_B, MAX_ENTRIES, MAX_NAMES_B, MAX_PATH_B, shown

BLOCK_B: Final = 512
_MAX_METADATA_B: Final = 64 * 1024
_MAX_NAME_B: Final = 255
_MAX_DEPTH: Final = 100


class Kind(Enum):
    """Kind of an entry."""

    FILE = "file"
    DIRECTORY = "directory"
    LINK = "link"


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """An entry of an archive.

    Attributes:
        kind: file, directory or symbolic link. A hard link is a file with the content of its target.
        mode: permissions.
        mtime: time of the last change in seconds since 1970.
        offset, size: where the content of a file is in the archive.
        target: of a symbolic link.
    """

    kind: Kind
    mode: int
    mtime: int = 0
    offset: int = 0
    size: int = 0
    target: str = ""


def read_index(archive: BinaryIO) -> dict[str, Entry]:
    """Return the entries of an uncompressed archive by their path, such as `src/main.py`; directories come before what they contain.

    Directories that the archive only implies are among them, the top directory is not. A later entry replaces an
    earlier one with the same path.

    Raises:
        InvalidRequest: damaged, or with a name, kind or size that is not accepted.
    """
    return _Reader(archive).read()


class _Reader:
    def __init__(self, archive: BinaryIO) -> None:
        self._archive = archive
        self._length = archive.seek(0, 2)
        self._entries: dict[str, Entry] = {}
        self._bytes = 0
        self._names = 0
        self._count = 0

    def read(self) -> dict[str, Entry]:
        position = 0
        long_name = long_link = b""
        pax: dict[str, bytes] = {}
        while True:
            header = self._header(position)
            position += BLOCK_B
            if not any(header):
                return self._entries
            self._count += 1
            if self._count > 2 * MAX_ENTRIES:  # each entry may have one of metadata
                raise _too_many()
            kind, size = header[156:157], _number(header[124:136])
            if kind in (b"L", b"K", b"x", b"g"):
                content = self._metadata(position, size)
                if kind == b"L":
                    long_name = content.rstrip(b"\0")
                elif kind == b"K":
                    long_link = content.rstrip(b"\0")
                elif kind == b"x":
                    pax = _pax(content)
            else:
                name = pax.get("path") or long_name or _name(header)
                link = pax.get("linkpath") or long_link or header[157:257].split(b"\0", 1)[0]
                if "size" in pax:
                    size = _decimal(pax["size"])
                if kind not in (b"0", b"\0", b"7"):
                    size = 0
                if position + size > self._length:
                    raise _damaged("it is cut off")
                mtime = _decimal(pax.get("mtime", b"").partition(b".")[0], _number(header[136:148]))
                mode = _number(header[100:108]) & 0o7777
                # Before 1988 a directory was a file with a slash at the end of its name.
                if name.endswith(b"/") and kind in (b"0", b"\0"):
                    kind = b"5"
                self._add(
                    _path(name),
                    kind,
                    link,
                    Entry(kind=Kind.FILE, mode=mode, mtime=mtime, offset=position, size=size),
                )
                long_name = long_link = b""
                pax = {}
            position += -(-size // BLOCK_B) * BLOCK_B

    def _header(self, position: int) -> bytes:
        self._archive.seek(position)
        header = self._archive.read(BLOCK_B)
        if len(header) < BLOCK_B:
            raise _damaged("it has no end mark")
        if any(header) and sum(header) - sum(header[148:156]) + 8 * 0x20 != _number(header[148:156]):
            raise _damaged("a header has a wrong checksum")
        return header

    def _metadata(self, position: int, size: int) -> bytes:
        if size > _MAX_METADATA_B:
            raise _damaged("an entry has too much metadata")
        self._archive.seek(position)
        content = self._archive.read(size)
        if len(content) < size:
            raise _damaged("it is cut off")
        return content

    def _add(self, path: str, kind: bytes, link: bytes, entry: Entry) -> None:
        if kind == b"5":
            entry = replace(entry, kind=Kind.DIRECTORY, offset=0)
        elif kind == b"2":
            if not 0 < len(link) < MAX_PATH_B:
                raise _refused(path, "is a link whose target is empty or too long")
            target = link.decode(errors="surrogateescape")
            entry = replace(entry, kind=Kind.LINK, mode=0o777, offset=0, target=target)
        elif kind == b"1":
            original = self._entries.get(_path(link))
            if original is None or original.kind is not Kind.FILE:
                raise _refused(path, "is a hard link to something that is not a file before it")
            entry = original
        elif kind in (b"3", b"4", b"6"):
            raise _refused(path, "is a device or named pipe")
        elif kind not in (b"0", b"\0", b"7"):
            raise _refused(path, "is of a kind that is not supported")
        if path != ".":
            self._insert(path, entry)

    def _insert(self, path: str, entry: Entry) -> None:
        parent = posixpath.dirname(path)
        above = self._entries.get(parent) if parent else None
        if parent and above is None:
            self._insert(parent, Entry(kind=Kind.DIRECTORY, mode=0o755, mtime=entry.mtime))
        elif above is not None and above.kind is not Kind.DIRECTORY:
            raise _refused(path, "is below something that is not a directory")
        former = self._entries.get(path)
        if former is not None and former.kind is Kind.DIRECTORY and entry.kind is not Kind.DIRECTORY:
            raise _refused(path, "is a directory and something else")
        self._entries[path] = entry
        self._bytes += entry.size
        self._names += len(path) + len(entry.target)
        if len(self._entries) > MAX_ENTRIES:
            raise _too_many()
        if self._names > MAX_NAMES_B:
            raise InvalidRequest(
                f"The archive has more than {MAX_NAMES_B >> 20} MiB of paths: use shorter ones, or leave files out."
            )
        if self._bytes > MAX_CONTEXT_B:
            raise InvalidRequest(f"The archive has more than {MAX_CONTEXT_B >> 20} MiB of files.")


def _path(name: bytes) -> str:
    text = name.decode(errors="surrogateescape")
    parts = [part for part in text.split("/") if part not in ("", ".")]
    if text.startswith("/") or ".." in parts:
        raise InvalidRequest(f"The archive has a name outside of its directory: {shown(text)}.")
    if (
        not text
        or len(name) > MAX_PATH_B
        or len(parts) > _MAX_DEPTH
        or any(len(part.encode(errors="surrogateescape")) > _MAX_NAME_B for part in parts)
    ):
        raise InvalidRequest(f"The archive has a name that is empty, too long or too deep: {shown(text)}.")
    return "/".join(parts) or "."


def _name(header: bytes) -> bytes:
    name = header[:100].split(b"\0", 1)[0]
    prefix = header[345:500].split(b"\0", 1)[0] if header[257:263] == b"ustar\0" else b""
    return prefix + b"/" + name if prefix else name


def _number(field: bytes) -> int:
    if field[0] & 0x80:
        # Base 256, a GNU extension: the sign is in the second bit.
        value = int.from_bytes(bytes([field[0] & 0x7F]) + field[1:])
        if field[0] & 0x40 or value >= 1 << 63:
            raise _damaged("a header has a number out of range")
        return value
    digits = field.split(b"\0", 1)[0].strip(b" ")
    if digits and not all(0x30 <= digit <= 0x37 for digit in digits):
        raise _damaged("a header has a number that is none")
    return int(digits or b"0", 8)


def _decimal(text: bytes, default: int = 0) -> int:
    if not text:
        return default
    if text.startswith(b"-"):
        return 0  # a time before 1970
    if not text.isdigit() or len(text) > 19:
        raise _damaged("a header has a number that is none")
    return int(text)


def _pax(content: bytes) -> dict[str, bytes]:
    # Records are `LENGTH KEY=VALUE\n`, where the length counts the whole record.
    fields: dict[str, bytes] = {}
    position = 0
    while position < len(content):
        space = content.find(b" ", position, position + 20)
        length = _decimal(content[position:space]) if space > position else 0
        record = content[space + 1 : position + length]
        key, equals, value = record[:-1].partition(b"=")
        if (
            length < 5
            or len(record) != position + length - space - 1
            or not record.endswith(b"\n")
            or not equals
        ):
            raise _damaged("its extended metadata is not valid")
        if key.startswith(b"GNU.sparse."):
            raise InvalidRequest(
                "The archive has a file with holes, which is not supported: pack it without --sparse."
            )
        fields[key.decode(errors="replace")] = value
        position += length
    if b"\0" in fields.get("path", b"") or b"\0" in fields.get("linkpath", b""):
        raise _damaged("a name contains a NUL character")
    return fields


def _damaged(what: str) -> InvalidRequest:
    return InvalidRequest(f"The archive is damaged: {what}.")


def _refused(path: str, what: str) -> InvalidRequest:
    return InvalidRequest(f"The archive is not accepted: {shown(path)} {what}.")


def _too_many() -> InvalidRequest:
    return InvalidRequest(f"The archive has more than {MAX_ENTRIES} entries.")
