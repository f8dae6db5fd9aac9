"""Reads and writes local directories as tar archives in chunks, for both clients.

Archives from a sandbox are not trusted: only the entry types that the platform writes are accepted, every
length is checked, and nothing is written outside the target directory or through a symbolic link.
"""

from __future__ import annotations

import os
import secrets
import stat
from collections.abc import Generator, Iterator
from functools import partial
from io import BytesIO
from pathlib import Path, PureWindowsPath
from typing import BinaryIO, Final, cast

from wrenn.base.on_failure import on_failure
from wrenn.sdk._source import CHUNK_B
from wrenn.sdk.errors import ConflictError, UnexpectedAnswerError

BLOCK_B: Final = 512
_HOLE_B: Final = 64 * 1024
_LEVELS_LIMIT: Final = 256
"""Deepest path. Removing a tree takes a level of the interpreter's stack for each of its own."""
_NAME_LIMIT_B: Final = 8 * 1024
_SEGMENTS_LIMIT: Final = 65_536
_FILE, _HARD_LINK, _SYMLINK, _DIRECTORY, _FIFO = b"0", b"1", b"2", b"5", b"6"
_SPARSE, _LONG_NAME, _LONG_LINK = b"S", b"L", b"K"
_DEVICES: Final = (b"3", b"4")


def create_private(path: Path) -> BinaryIO:
    """Create a file that only its owner can read, whatever the umask is: its mode is set when it is complete."""

    def opener(name: str, flags: int) -> int:
        return os.open(name, flags, 0o600)

    return open(path, "xb", opener=opener)


class Packed:
    """A local directory as a tar archive that is read like a file. Names are relative to the directory, which is the first entry.

    Sockets are skipped. Raises `ConflictError` if a file becomes shorter while it is read.
    """

    def __init__(self, top: Path) -> None:
        self._chunks = _packed(top)

    def read(self, size: int, /) -> bytes:  # noqa: ARG002 - the chunks have their own size
        """Return the next bytes; none at the end."""
        return next(self._chunks, b"")


def _packed(top: Path) -> Iterator[bytes]:
    # Takes as long to import as the rest of the SDK.
    import tarfile  # noqa: PLC0415

    # Only its metadata is used, including its tracking of hard links; the file contents are read here.
    describer = tarfile.TarFile(fileobj=BytesIO(), mode="w", format=tarfile.GNU_FORMAT)
    gathered = bytearray()
    for path, name in _below(top):
        try:
            # None for a socket, although the declared type does not say so.
            info = cast("tarfile.TarInfo | None", describer.gettarinfo(path, name))
        except FileNotFoundError:
            continue  # it was removed meanwhile
        if info is None:
            continue
        gathered += info.tobuf(tarfile.GNU_FORMAT, "utf-8", "surrogateescape")
        if info.isreg():
            for chunk in _content(path, info.size):
                gathered += chunk
                if len(gathered) >= CHUNK_B:
                    yield bytes(gathered)
                    gathered.clear()
            gathered += bytes(-info.size % BLOCK_B)
    yield bytes(gathered + bytes(2 * BLOCK_B))


def _below(top: Path) -> Iterator[tuple[str, str]]:
    """Yield all files with their names; the contents of each directory follow it."""
    yield os.fspath(top), "."
    levels = [_entries(os.fspath(top), "")]
    while levels:
        entry, name = next(levels[-1], (None, ""))
        if entry is None:
            levels.pop()
            continue
        yield entry.path, name
        if entry.is_dir(follow_symlinks=False):
            levels.append(_entries(entry.path, f"{name}/"))


def _entries(folder: str, above: str) -> Iterator[tuple[os.DirEntry[str], str]]:
    with os.scandir(folder) as found:
        entries = sorted(found, key=lambda entry: entry.name)
    return iter([(entry, above + entry.name) for entry in entries])


def _content(path: str, size: int) -> Iterator[bytes]:
    with open(path, "rb") as file:  # noqa: PTH123 - the path may contain any bytes
        left = size
        while left:
            chunk = file.read(min(left, CHUNK_B))
            if not chunk:
                raise ConflictError(f"{path} became shorter while it was read.")
            left -= len(chunk)
            yield chunk


class Unpacker:
    """Unpacks an archive that arrives in chunks into `top`, whose parent must exist. Files are replaced, directories merged.

    Modes (except setuid, setgid and sticky), times, links and holes are preserved; owners are not, and
    devices are skipped.
    """

    def __init__(self, top: Path) -> None:
        self._top = top
        self._buffer = bytearray()
        self._ended = False
        self._made: list[tuple[Path, int, int]] = []
        self._last_parent: Path | None = None
        self._work = self._unpack()
        next(self._work)

    def feed(self, chunk: bytes) -> None:
        """Process the next bytes.

        Raises:
            UnexpectedAnswerError: the archive is malformed or unsafe.
            OSError: an error of the local disk.
        """
        if self._ended:
            return
        self._buffer += chunk
        try:
            self._work.send(None)
        except StopIteration:
            self._ended = True

    def finish(self) -> None:
        """Check that the archive is complete; raises `UnexpectedAnswerError` otherwise."""
        if not self._ended:
            raise _bad("it breaks off")

    def close(self) -> None:
        """Discard a partly written file."""
        self._work.close()

    def _unpack(self) -> Generator[None]:
        name, link = b"", b""
        while True:
            block = yield from self._take(BLOCK_B)
            if not any(block):
                break
            head = _Head(block)
            if head.kind in (_LONG_NAME, _LONG_LINK):
                if head.size > _NAME_LIMIT_B:
                    raise _bad("a name is too long")
                text = yield from self._take(head.size + -head.size % BLOCK_B)
                text = text[: head.size].partition(b"\0")[0]
                name, link = (text, link) if head.kind == _LONG_NAME else (name, text)
                continue
            yield from self._entry(head, name or head.name, link or head.link, block)
            name, link = b"", b""
        for made in reversed(self._made):
            _set_attributes(*made)

    def _entry(self, head: _Head, name: bytes, link: bytes, block: bytes) -> Generator[None]:
        parts = _parts(name)
        path = self._top.joinpath(*parts)
        self._finish_directories(path)
        if head.kind == _DIRECTORY:
            self._directory(path, parts, head)
            return
        if not parts:
            raise _bad("an entry has no name")
        self._check_parent(path.parent)
        if head.kind in (_FILE, b"\0", _SPARSE):
            yield from self._file(path, head, block)
            return
        if head.kind in _DEVICES:
            return
        if os.path.lexists(path):
            path.unlink()
        if head.kind == _SYMLINK:
            path.symlink_to(os.fsdecode(link))
        elif head.kind == _FIFO:
            os.mkfifo(path, head.mode)
            os.utime(path, (head.mtime, head.mtime))
        elif head.kind == _HARD_LINK:
            leads_to = _parts(link)
            if not leads_to:
                raise _bad("a link leads to no file")
            first = self._top.joinpath(*leads_to)
            self._check_parent(first.parent)
            if not stat.S_ISREG(first.lstat().st_mode):
                raise _bad("a link leads to no file")
            os.link(first, path, follow_symlinks=False)
        else:
            raise _bad("an entry has an unknown type")

    def _directory(self, path: Path, parts: list[str], head: _Head) -> None:
        if parts:
            self._check_parent(path.parent)
        try:
            path.mkdir(mode=0o700)
        except FileExistsError:
            # An existing directory is not changed. The target itself may be a link, which the user chose.
            if not path.is_dir() or (parts and path.is_symlink()):
                raise _bad("a directory leads through a link or a file") from None
        else:
            self._made.append((path, head.mode, head.mtime))

    def _file(self, path: Path, head: _Head, block: bytes) -> Generator[None]:
        size, segments = head.size, [(0, head.size)]
        if head.kind == _SPARSE:
            size, segments = yield from self._sparse(block)
        # Write to a temporary file first: an archive that ends early leaves the previous file unchanged.
        temporary = path.with_name(f".{secrets.token_hex(8)}.part")
        with on_failure(partial(temporary.unlink, missing_ok=True)):
            with create_private(temporary) as file:
                for offset, length in segments:
                    file.seek(offset)
                    yield from self._content(file, length)
                file.truncate(size)
            yield from self._take(-sum(length for _, length in segments) % BLOCK_B)
            temporary.chmod(head.mode)
            os.utime(temporary, (head.mtime, head.mtime))
            temporary.replace(path)

    def _content(self, file: BinaryIO, left: int) -> Generator[None]:
        while left:
            piece = yield from self._take(min(left, _HOLE_B))
            left -= len(piece)
            if len(piece) == _HOLE_B and not any(piece):
                file.seek(len(piece), os.SEEK_CUR)
            else:
                file.write(piece)

    def _sparse(self, block: bytes) -> Generator[None, None, tuple[int, list[tuple[int, int]]]]:
        size = _number(block[483:495])
        segments, more = _segments(block[386:482]), block[482]
        while more:
            block = yield from self._take(BLOCK_B)
            segments += _segments(block[:504])
            more = block[504]
            if len(segments) > _SEGMENTS_LIMIT:
                raise _bad("a file with holes has too many pieces")
        end = 0
        for offset, length in segments:
            if offset < end or offset + length > size:
                raise _bad("the pieces of a file with holes are not in order")
            end = offset + length
        return size, segments

    def _take(self, size: int) -> Generator[None, None, bytes]:
        while len(self._buffer) < size:
            yield
        taken = bytes(self._buffer[:size])
        del self._buffer[:size]
        return taken

    def _check_parent(self, parent: Path) -> None:
        """Check that every component from the target down to `parent` is a directory and not a link; create missing ones."""
        if parent == self._last_parent:
            return
        self._top.mkdir(exist_ok=True)
        step = self._top
        for part in parent.relative_to(self._top).parts:
            step /= part
            try:
                step.mkdir()
            except FileExistsError:
                if not stat.S_ISDIR(step.lstat().st_mode):
                    raise _bad("an entry leads through a link or a file") from None
        self._last_parent = parent

    def _finish_directories(self, path: Path) -> None:
        """Set modes and times of the directories that do not contain `path`; entries for them must not follow."""
        while self._made and not path.is_relative_to(self._made[-1][0]):
            _set_attributes(*self._made.pop())


def _set_attributes(path: Path, mode: int, mtime: int) -> None:
    if path.is_dir() and not path.is_symlink():
        os.utime(path, (mtime, mtime))
        path.chmod(mode)


_LAST_TIME_S = 253_402_300_799
"""The end of the year 9999. Later times overflow the local system calls."""


class _Head:
    """A header block."""

    def __init__(self, block: bytes) -> None:
        if _number(block[148:156]) != sum(block[:148]) + sum(block[156:]) + 8 * 32:
            raise _bad("a header is damaged")
        self.name = block[:100].partition(b"\0")[0]
        self.mode = _number(block[100:108]) & 0o777
        self.size = _number(block[124:136])
        # Times before 1970 are replaced by 1970.
        self.mtime = min(max(_number(block[136:148], signed=True), 0), _LAST_TIME_S)
        self.kind = block[156:157]
        self.link = block[157:257].partition(b"\0")[0]


def _number(field: bytes, *, signed: bool = False) -> int:
    if field[0] & 0x80:
        number = int.from_bytes(field, "big", signed=True)
        number = number if field[0] == 0xFF else number + (1 << (8 * len(field) - 1))
    else:
        digits = field.partition(b"\0")[0].strip()
        if digits and not digits.isdigit():
            raise _bad("a number is damaged")
        try:
            number = int(digits or b"0", 8)
        except ValueError as error:
            raise _bad("a number is damaged") from error
    if not (signed or 0 <= number < 1 << 62):
        raise _bad("a number is too large")
    return number


def _segments(fields: bytes) -> list[tuple[int, int]]:
    found: list[tuple[int, int]] = []
    for start in range(0, len(fields), 24):
        if not fields[start]:
            break
        found.append((_number(fields[start : start + 12]), _number(fields[start + 12 : start + 24])))
    return found


def _parts(name: bytes) -> list[str]:
    parts = [part for part in name.split(b"/") if part not in (b"", b".")]
    if name.startswith(b"/") or b".." in parts or b"\0" in name:
        raise _bad("an entry leads outside of the target")
    if len(parts) > _LEVELS_LIMIT:
        raise _bad("an entry has too many levels")
    decoded = [os.fsdecode(part) for part in parts]
    if os.name == "nt" and not all(is_windows_name(part) for part in decoded):
        raise _bad("the name of an entry is not possible on Windows")
    return decoded


def is_windows_name(name: str) -> bool:
    """Whether Windows takes this for the name of one file: no path, drive, stream or device."""
    path = PureWindowsPath(name)
    return path.parts == (name,) and not path.drive and ":" not in name and not path.is_reserved()


def _bad(what: str) -> UnexpectedAnswerError:
    return UnexpectedAnswerError(f"The archive that the sandbox sent is not valid: {what}.")
