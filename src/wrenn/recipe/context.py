"""Packs a folder as the archive of a build context: on the client, for `ContextArchive` on the server."""

from __future__ import annotations

import gzip
import os
import stat
import tarfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Final, cast

from wrenn.base.errors import InvalidRequest
from wrenn.recipe.ignore import IGNORE_FILE, IgnoreRules
from wrenn.recipe.limits import MAX_ARCHIVE_B, MAX_CONTEXT_B, MAX_ENTRIES, MAX_TEXT_B, shown

_CHUNK_B: Final = 256 * 1024
_COMPRESSION: Final = 6
"""zlib's default: twice the time of 1 for some 10 % less on source code."""


@dataclass(frozen=True, slots=True)
class PackedContext:
    """What was packed.

    Attributes:
        entries: files, directories and links.
        bytes_b: bytes of the files.
        archive_b: bytes of the compressed archive.
        left_out: names of sockets, pipes and devices, which have no content to copy.
    """

    entries: int
    bytes_b: int
    archive_b: int
    left_out: tuple[str, ...]


def read_ignore_rules(folder: Path, dockerfile: Path | None = None) -> IgnoreRules:
    """Return the rules of `NAME.dockerignore` beside a Dockerfile, or else of `.dockerignore` in the folder.

    Raises:
        InvalidRequest: a pattern is not valid.
    """
    candidates = [folder / IGNORE_FILE]
    if dockerfile is not None:
        candidates.insert(0, dockerfile.with_name(dockerfile.name + IGNORE_FILE))
    for path in candidates:
        try:
            with path.open("rb") as file:
                data = file.read(MAX_TEXT_B + 1)
        except FileNotFoundError:
            continue
        return IgnoreRules.parse(data.decode(errors="replace"))
    return IgnoreRules()


def pack_context(
    folder: Path,
    out: BinaryIO,
    rules: IgnoreRules | None = None,
    *,
    on_bytes: Callable[[int], None] | None = None,
) -> PackedContext:
    """Write the files of a folder to `out` as a gzip-compressed tar archive, in the order of their names.

    Symbolic links are packed as links, wherever they lead. Owners are left out, modes and times are kept. `on_bytes`
    is called with the bytes of files so far.

    Raises:
        InvalidRequest: more or larger files than a context may have, or a file became shorter meanwhile.
        OSError: a file cannot be read.
    """
    packer = _Packer(folder, rules or IgnoreRules(), on_bytes)
    counted = _Counted(out)
    # The time in gzip's header is left out, so that the same files make the same bytes.
    with gzip.GzipFile(
        filename="", mode="wb", fileobj=cast("BinaryIO", counted), compresslevel=_COMPRESSION, mtime=0
    ) as compressed:
        for data in packer.chunks():
            compressed.write(data)
    return PackedContext(packer.entries, packer.bytes_b, counted.size, tuple(packer.left_out))


class _Counted:
    def __init__(self, out: BinaryIO) -> None:
        self._out = out
        self.size = 0

    def write(self, data: bytes, /) -> int:
        self.size += len(data)
        if self.size > MAX_ARCHIVE_B:
            raise InvalidRequest(
                f"The build context is larger than {MAX_ARCHIVE_B >> 20} MiB compressed: leave files out in {IGNORE_FILE}."
            )
        return self._out.write(data)

    def flush(self) -> None:
        self._out.flush()


class _Packer:
    def __init__(self, folder: Path, rules: IgnoreRules, on_bytes: Callable[[int], None] | None) -> None:
        self._folder = folder
        self._rules = rules
        self._on_bytes = on_bytes
        self.entries = 0
        self.bytes_b = 0
        self.left_out: list[str] = []
        # Ignored directories above the current place: they are packed only if something in them is not ignored.
        self._waiting: list[tuple[str, os.stat_result]] = []

    def chunks(self) -> Iterator[bytes]:
        yield from self._directory(self._folder, "")
        yield bytes(2 * tarfile.BLOCKSIZE)

    def _directory(self, folder: Path, above: str) -> Iterator[bytes]:
        with os.scandir(folder) as listing:
            found = sorted(listing, key=lambda entry: entry.name)
        for item in found:
            name = above + item.name
            ignored = self._rules.ignores(name)
            status = item.stat(follow_symlinks=False)
            if stat.S_ISDIR(status.st_mode):
                if ignored and not self._rules.has_exceptions:
                    continue
                self._waiting.append((name, status))
                if not ignored:
                    yield from self._take_waiting()
                yield from self._directory(Path(item.path), name + "/")
                if self._waiting and self._waiting[-1][0] == name:
                    self._waiting.pop()
            elif ignored:
                continue
            elif stat.S_ISREG(status.st_mode) or stat.S_ISLNK(status.st_mode):
                yield from self._take_waiting()
                yield from self._file(Path(item.path), name, status)
            else:
                self.left_out.append(name)

    def _take_waiting(self) -> Iterator[bytes]:
        waiting, self._waiting = self._waiting, []
        for name, status in waiting:
            yield self._header(name, status, tarfile.DIRTYPE)

    def _file(self, path: Path, name: str, status: os.stat_result) -> Iterator[bytes]:
        if stat.S_ISLNK(status.st_mode):
            yield self._header(name, status, tarfile.SYMTYPE, target=str(path.readlink()))
            return
        with path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            self.bytes_b += size
            if self.bytes_b > MAX_CONTEXT_B:
                raise InvalidRequest(
                    f"The build context has more than {MAX_CONTEXT_B >> 20} MiB of files: leave some out in {IGNORE_FILE}."
                )
            yield self._header(name, status, tarfile.REGTYPE, size=size)
            left = size
            while left:
                data = file.read(min(_CHUNK_B, left))
                if not data:
                    raise InvalidRequest(f"The file {shown(name)} became shorter while it was read.")
                left -= len(data)
                yield data
        yield bytes(-size % tarfile.BLOCKSIZE)
        if self._on_bytes is not None:
            self._on_bytes(self.bytes_b)

    def _header(
        self, name: str, status: os.stat_result, kind: bytes, *, size: int = 0, target: str = ""
    ) -> bytes:
        self.entries += 1
        if self.entries > MAX_ENTRIES:
            raise InvalidRequest(
                f"The build context has more than {MAX_ENTRIES} files: leave some out in {IGNORE_FILE}."
            )
        info = tarfile.TarInfo(name)
        info.type, info.size, info.linkname = kind, size, target
        info.mode, info.mtime = stat.S_IMODE(status.st_mode), int(status.st_mtime)
        return info.tobuf(tarfile.GNU_FORMAT, "utf-8", "surrogateescape")
