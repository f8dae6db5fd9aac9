"""Reads the uploaded archive of a build context, and packs what a COPY or ADD selects for the guest.

An archive comes from a client and is not trusted. Its content is only ever read from files by offset and size; nothing is
unpacked on the host. Everything here blocks on files: call it in a thread.
"""

from __future__ import annotations

import bz2
import hashlib
import io
import lzma
import posixpath
import tarfile
import tempfile
import time
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import BinaryIO, Final, Protocol

from wrenn.base.errors import InvalidRequest
from wrenn.recipe.instructions import Copy
from wrenn.recipe.limits import MAX_CONTEXT_B, MAX_ENTRIES, MAX_PATH_B, refused, shown
from wrenn.recipe.patterns import compile_pattern, has_wildcards
from wrenn.recipe.tar_index import BLOCK_B, Entry, Kind, read_index

CHUNK_B: Final = 256 * 1024
MAX_UNPACKED_B: Final = MAX_CONTEXT_B + 4 * BLOCK_B * MAX_ENTRIES
"""Files, and for each entry a header, its metadata and the padding."""
_MAX_WORK: Final = 20_000_000
"""Names that are compared or selected in all instructions of a build together: some ten seconds."""
_MAX_LINKS: Final = 40
"""Symbolic links that are followed in one path, as on Linux."""
_MAX_MEMBERS: Final = 1_000
"""Compressed streams one after the other: each costs a copy of what has been read."""
_XZ_MEMORY_B: Final = 128 * 1024 * 1024
_ROOT: Final = Entry(kind=Kind.DIRECTORY, mode=0o755)


class _Decompressor(Protocol):
    @property
    def eof(self) -> bool: ...
    @property
    def unused_data(self) -> bytes: ...
    def decompress(self, data: bytes, max_length: int = ..., /) -> bytes: ...


class Readable(Protocol):
    """What an archive is read from."""

    def read(self, size: int, /) -> bytes:
        """Return at most this many bytes; none at the end."""
        ...


class _Contents:
    """The contents of files, by the place where they are in an uncompressed archive."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._digests: dict[tuple[int, int], bytes] = {}

    def chunks(self, entry: Entry) -> Iterator[bytes]:
        """Yield the content of a file in pieces."""
        left, position = entry.size, entry.offset
        while left:
            self._file.seek(position)
            data = self._file.read(min(CHUNK_B, left))
            if not data:
                raise InvalidRequest("The archive is damaged: it is cut off.")
            left -= len(data)
            position += len(data)
            yield data

    def digest(self, entry: Entry) -> bytes:
        """Return the digest of a file, which is computed once."""
        place = (entry.offset, entry.size)
        if place not in self._digests:
            digest = hashlib.sha256()
            for data in self.chunks(entry):
                digest.update(data)
            self._digests[place] = digest.digest()
        return self._digests[place]


@dataclass(frozen=True, slots=True)
class _Item:
    """Something to write: the name below the destination, and where its content is."""

    name: str
    entry: Entry
    contents: _Contents


@dataclass(frozen=True, slots=True)
class Selection:
    """What a COPY or ADD writes.

    Attributes:
        digest: identifies names, kinds, modes and contents, but neither times nor owners. For `cache_key.step_key`.
        single_file: one file that gets the name of the destination, unless the destination is a directory.
        bytes_b: bytes of all files.
    """

    copy: Copy
    digest: str
    single_file: bool
    bytes_b: int
    _items: tuple[_Item, ...] = field(repr=False)

    def directory(self, *, destination_is_directory: bool) -> str:
        """Return the absolute path of the guest's directory into which `chunks` is unpacked.

        `destination_is_directory` says whether the guest has a directory at `copy.destination`.
        """
        if self._renames(destination_is_directory=destination_is_directory):
            return posixpath.dirname(self.copy.destination)
        return self.copy.destination

    def chunks(self, *, destination_is_directory: bool) -> Iterator[bytes]:
        """Yield a tar archive (GNU format) whose names are relative to `directory`.

        Owners are root; whoever unpacks it applies `copy.owner`.
        """
        rename = self._renames(destination_is_directory=destination_is_directory)
        for item in self._items:
            name = posixpath.basename(self.copy.destination) if rename else item.name
            is_set = self.copy.mode is not None and item.entry.kind is not Kind.LINK
            yield from _packed(name, item, mode=self.copy.mode if is_set else None)
        yield bytes(2 * BLOCK_B)

    def _renames(self, *, destination_is_directory: bool) -> bool:
        return (
            self.single_file
            and not self.copy.into_directory
            and not destination_is_directory
            and self.copy.destination != "/"
        )


class ContextArchive:
    """The archive of a build context, uncompressed in a temporary file. Close it when the build has ended."""

    def __init__(self, scratch: BinaryIO, new_scratch: Callable[[], BinaryIO]) -> None:
        self._archive = scratch
        self._new_scratch = new_scratch
        try:
            self._entries = read_index(scratch)
        except BaseException:
            scratch.close()
            raise
        self._children: dict[str, list[str]] = {"": []}
        for path, entry in self._entries.items():
            if entry.kind is Kind.DIRECTORY:
                self._children.setdefault(path, [])
            self._children[posixpath.dirname(path)].append(posixpath.basename(path))
        # Archives in this one which an ADD unpacked, by the place of their file.
        self._nested: dict[int, ContextArchive] = {}
        self._nested_left_b = MAX_UNPACKED_B
        self._work = 0
        self._contents = _Contents(scratch)

    @classmethod
    def open(
        cls,
        uploaded: Readable,
        *,
        new_scratch: Callable[[], BinaryIO] = tempfile.TemporaryFile,
        limit_b: int | None = None,
    ) -> ContextArchive:
        """Read an uploaded archive, which is a tar file or one compressed with gzip, bzip2 or xz.

        `new_scratch` opens an empty temporary file for the uncompressed archive, of at most `limit_b` (2.2 GiB by default).

        Raises:
            InvalidRequest: damaged, larger than the limits, or with an entry that is not accepted.
        """
        limit_b = MAX_UNPACKED_B if limit_b is None else limit_b
        return cls(_unpack(uploaded, new_scratch, limit_b), new_scratch)

    @classmethod
    def empty(cls) -> ContextArchive:
        """Return the context of a build without one: a COPY of any file is refused."""
        scratch = tempfile.TemporaryFile()  # noqa: SIM115 - `close` closes it
        scratch.write(bytes(2 * BLOCK_B))
        return cls(scratch, tempfile.TemporaryFile)

    def close(self) -> None:
        """Remove the temporary files. Selections of this archive cannot be read any more."""
        for nested in self._nested.values():
            nested.close()
        self._archive.close()

    def __enter__(self) -> ContextArchive:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def entry_count(self) -> int:
        """Number of files, directories and links."""
        return len(self._entries)

    @property
    def unpacked_b(self) -> int:
        """Size of the uncompressed archive."""
        return self._archive.seek(0, io.SEEK_END)

    def items(self) -> Iterator[_Item]:
        """Yield everything that it has."""
        return self._below("")

    def select(self, copy: Copy) -> Selection:
        """Return what this instruction writes.

        A directory stands for what it contains. A path that leads through symbolic links is followed within the
        context; links in a directory are copied as links. A pattern that matches nothing selects nothing.

        Raises:
            InvalidRequest: the context lacks a source, or the selection is larger than the limits.
        """
        items: dict[str, _Item] = {}
        files = 0
        only_files = True
        for source in copy.sources:
            for name, path in self._matches(copy, source):
                entry = _ROOT if path == "" else self._entries[path]
                if entry.kind is Kind.DIRECTORY:
                    selected: Iterator[_Item] = self._below(path)
                    only_files = False
                elif copy.extract and entry.kind is Kind.FILE and (nested := self._unpacked(copy, entry)):
                    selected = nested._below("")
                    only_files = False
                else:
                    selected = iter((_Item(name, entry, self._contents),))
                files += 1
                for item in selected:
                    self._spend(copy, 1)
                    _add(items, item)
                if len(items) > MAX_ENTRIES:
                    raise refused(copy.line, f"it would copy more than {MAX_ENTRIES} files")
        for file in copy.inline:
            content = file.content.encode()
            entry = Entry(kind=Kind.FILE, mode=0o644, size=len(content))
            _add(items, _Item(file.name, entry, _Contents(io.BytesIO(content))))
            files += 1
        total = sum(item.entry.size for item in items.values())
        if total > MAX_CONTEXT_B:
            raise refused(copy.line, f"it would copy more than {MAX_CONTEXT_B >> 20} MiB")
        selection = tuple(items.values())
        return Selection(
            copy=copy,
            digest=self._digest(selection, single_file=files == 1 and only_files),
            single_file=files == 1 and only_files,
            bytes_b=total,
            _items=selection,
        )

    def _digest(self, items: Sequence[_Item], *, single_file: bool) -> str:
        total = hashlib.sha256(b"single" if single_file else b"several")
        for item in sorted(items, key=lambda item: item.name):
            entry = item.entry
            fields = (item.name, entry.kind.value, f"{entry.mode:o}", entry.target)
            # NUL is in none of them, so no two selections make the same text.
            total.update("\0".join(fields).encode(errors="surrogateescape") + b"\0")
            if entry.kind is Kind.FILE:
                total.update(item.contents.digest(entry))
        return total.hexdigest()

    def _matches(self, copy: Copy, source: str) -> Iterator[tuple[str, str]]:
        """Yield the name under which a match is copied, and its path in the archive."""
        if not has_wildcards(source):
            path = self._resolve(copy, source)
            if path is None:
                raise refused(copy.line, f"the build context has no {shown(source)}")
            yield posixpath.basename(source), path
            return
        found = [""]
        for part in source.split("/"):
            found = list(self._step(copy, found, part))
            if len(found) > MAX_ENTRIES:
                raise refused(copy.line, f"{shown(source)} matches more than {MAX_ENTRIES} files")
        for path in found:
            yield posixpath.basename(path), path

    def _step(self, copy: Copy, directories: Sequence[str], part: str) -> Iterator[str]:
        for directory in directories:
            self._spend(copy, 1 + len(self._children.get(directory, ())))
            if not has_wildcards(part):
                path = self._resolve(copy, posixpath.join(directory, part))
                if path is not None:
                    yield path
            elif directory in self._children:
                pattern = compile_pattern(part)
                for name in sorted(self._children[directory]):
                    if pattern.fullmatch(name):
                        yield posixpath.join(directory, name)

    def _resolve(self, copy: Copy, source: str) -> str | None:
        """Return the path without links, "" for the top directory; None if something is missing or links go in a circle."""
        pending = source.split("/")[::-1]
        path = ""
        links = 0
        while pending:
            part = pending.pop()
            if part in ("", "."):
                continue
            if part == "..":
                path = posixpath.dirname(path)  # a link cannot leave the context
                continue
            path = posixpath.join(path, part)
            entry = self._entries.get(path)
            if entry is None:
                return None
            if entry.kind is Kind.LINK:
                links += 1
                if links > _MAX_LINKS or len(pending) > MAX_PATH_B:
                    return None
                path = "" if entry.target.startswith("/") else posixpath.dirname(path)
                parts = entry.target.split("/")
                self._spend(copy, len(parts))
                pending += parts[::-1]
        return path

    def _spend(self, copy: Copy, work: int) -> None:
        self._work += work
        if self._work > _MAX_WORK:
            raise refused(copy.line, "the recipe looks at too many files: copy fewer, or more specific ones")

    def _below(self, directory: str) -> Iterator[_Item]:
        skipped = len(directory) + 1 if directory else 0
        pending = [directory]
        while pending:
            current = pending.pop()
            names = sorted(self._children.get(current, []))
            for name in names:
                path = posixpath.join(current, name)
                yield _Item(path[skipped:], self._entries[path], self._contents)
            pending += [
                path
                for path in (posixpath.join(current, name) for name in reversed(names))
                if self._entries[path].kind is Kind.DIRECTORY
            ]

    def _unpacked(self, copy: Copy, entry: Entry) -> ContextArchive | None:
        """Return the archive that is the content of a file; None if the file is not a tar archive."""
        if entry.offset in self._nested:
            return self._nested[entry.offset]
        if not _looks_like_tar(_Window(self._archive, entry)):
            return None
        try:
            scratch = _unpack(_Window(self._archive, entry), self._new_scratch, self._nested_left_b)
            self._nested_left_b -= scratch.tell()
            nested = ContextArchive(scratch, self._new_scratch)
        except InvalidRequest as error:
            raise refused(copy.line, error.message) from error
        self._nested[entry.offset] = nested
        return nested


def archive_of_directory(name: str) -> bytes:
    """Return an archive with one directory, whose parents are made where they are missing."""
    entry = tarfile.TarInfo(name)
    entry.type, entry.mode, entry.mtime = tarfile.DIRTYPE, 0o755, int(time.time())
    return entry.tobuf(tarfile.PAX_FORMAT) + tarfile.NUL * (2 * tarfile.BLOCKSIZE)


def packed_below(folder: str, archive: ContextArchive) -> Iterator[bytes]:
    """Yield the entries of an archive (GNU format) below a folder, without the end of an archive."""
    for item in archive.items():
        yield from _packed(posixpath.join(folder, item.name), item)


def _packed(name: str, item: _Item, *, mode: int | None = None) -> Iterator[bytes]:
    """Yield the blocks of an entry under this name; `mode`: instead of its own."""
    entry = item.entry
    info = tarfile.TarInfo(name)
    info.mtime = entry.mtime
    info.mode = entry.mode if mode is None else mode
    match entry.kind:
        case Kind.DIRECTORY:
            info.type = tarfile.DIRTYPE
        case Kind.LINK:
            info.type, info.linkname = tarfile.SYMTYPE, entry.target
        case Kind.FILE:
            info.size = entry.size
    yield info.tobuf(tarfile.GNU_FORMAT, "utf-8", "surrogateescape")
    if entry.kind is Kind.FILE:
        yield from item.contents.chunks(entry)
        yield bytes(-entry.size % BLOCK_B)


def _add(items: dict[str, _Item], item: _Item) -> None:
    # A later source replaces an earlier one, but a directory that both have stays.
    former = items.get(item.name)
    if former is None or former.entry.kind is not Kind.DIRECTORY or item.entry.kind is not Kind.DIRECTORY:
        items[item.name] = item


class _Window:
    """A file within the archive, for reading from its beginning."""

    def __init__(self, archive: BinaryIO, entry: Entry) -> None:
        self._archive = archive
        self._entry = entry
        self._position = 0

    def read(self, size: int, /) -> bytes:
        size = min(size, self._entry.size - self._position)
        self._archive.seek(self._entry.offset + self._position)
        data = self._archive.read(size)
        self._position += len(data)
        return data


def _decompressor(first: bytes) -> _Decompressor | None:
    if first.startswith(b"\x1f\x8b"):
        return _Gzip()
    if first.startswith(b"BZh"):
        return bz2.BZ2Decompressor()
    if first.startswith(b"\xfd7zXZ\0"):
        return lzma.LZMADecompressor(format=lzma.FORMAT_XZ, memlimit=_XZ_MEMORY_B)
    return None


class _Gzip:
    """zlib's decompressor with the interface of the others."""

    def __init__(self) -> None:
        self._inner = zlib.decompressobj(zlib.MAX_WBITS | 16)

    @property
    def eof(self) -> bool:
        return self._inner.eof

    @property
    def unused_data(self) -> bytes:
        return self._inner.unused_data

    def decompress(self, data: bytes, max_length: int = 0, /) -> bytes:
        return self._inner.decompress(self._inner.unconsumed_tail + data, max_length)


def _plain(source: Readable) -> Iterator[bytes]:
    """Yield the uncompressed content in pieces of at most `CHUNK_B`."""
    data = source.read(CHUNK_B)
    decompressor = _decompressor(data)
    if decompressor is None:
        while data:
            yield data
            data = source.read(CHUNK_B)
        return
    members = 1
    try:
        while True:
            if decompressor.eof:
                members += 1
                if members > _MAX_MEMBERS:
                    raise InvalidRequest(f"The archive has more than {_MAX_MEMBERS} compressed parts.")
                data = decompressor.unused_data or source.read(CHUNK_B)
                following = _decompressor(data)
                if following is None:
                    return  # what follows the compressed data is padding
                decompressor = following
            piece = decompressor.decompress(data, CHUNK_B)
            data = b""
            if piece:
                yield piece
            elif not decompressor.eof:
                data = source.read(CHUNK_B)
                if not data:
                    raise InvalidRequest("The archive is damaged: it is cut off.")
    except (zlib.error, lzma.LZMAError, OSError, EOFError, MemoryError) as error:
        raise InvalidRequest("The archive is damaged, or not one of tar, gzip, bzip2 and xz.") from error


def _unpack(source: Readable, new_scratch: Callable[[], BinaryIO], limit_b: int) -> BinaryIO:
    """Return a new temporary file with the uncompressed content; its position is the end."""
    scratch = new_scratch()
    try:
        for piece in _plain(source):
            limit_b -= len(piece)
            if limit_b < 0:
                raise InvalidRequest(f"The archive is larger than {MAX_CONTEXT_B >> 20} MiB unpacked.")
            scratch.write(piece)
    except BaseException:
        scratch.close()
        raise
    return scratch


def _looks_like_tar(source: Readable) -> bool:
    # As Docker decides: by the content, not by the name. A compressed file that is no archive is copied as it is.
    header = b""
    try:
        for piece in _plain(source):
            header += piece
            if len(header) >= BLOCK_B:
                break
        tarfile.TarInfo.frombuf(header[:BLOCK_B], "utf-8", "surrogateescape")
    except (InvalidRequest, tarfile.HeaderError):
        return False
    return True
