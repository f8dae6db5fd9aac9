"""Directories of this machine as tar archives and back, a chunk at a time, for both clients.

What comes out of a sandbox is anybody's: of an archive only what the platform writes is understood, every length is
checked, and nothing is written outside of the target or through a link.
"""

from __future__ import annotations

import os
import secrets
import stat
from collections.abc import Generator, Iterator
from io import BytesIO
from pathlib import Path
from typing import BinaryIO, Final, cast

from wrenn.sdk._source import CHUNK_B
from wrenn.sdk.errors import ConflictError, UnexpectedAnswerError

BLOCK_B: Final = 512
_HOLE_B: Final = 64 * 1024
_NAME_LIMIT_B: Final = 8 * 1024
_SEGMENTS_LIMIT: Final = 65_536
_FILE, _HARD_LINK, _SYMLINK, _DIRECTORY, _FIFO = b"0", b"1", b"2", b"5", b"6"
_SPARSE, _LONG_NAME, _LONG_LINK = b"S", b"L", b"K"
_DEVICES: Final = (b"3", b"4")


class Packed:
    """A directory as an archive that is read like a file. Its names are below the directory, which is the first entry.

    Sockets are left out. Raises `ConflictError` when a file becomes shorter while it is read.
    """

    def __init__(self, top: Path) -> None:
        self._chunks = _packed(top)

    def read(self, size: int, /) -> bytes:  # noqa: ARG002 - the chunks have their own size
        """The next bytes; none at the end."""
        return next(self._chunks, b"")


def _packed(top: Path) -> Iterator[bytes]:
    # Takes as long to import as all of the SDK.
    import tarfile  # noqa: PLC0415

    # It only describes the files, with what it knows of hard links; the bytes go out here.
    describer = tarfile.TarFile(fileobj=BytesIO(), mode="w", format=tarfile.GNU_FORMAT)
    gathered = bytearray()
    for path, name in _below(top):
        try:
            # None for a socket, whatever its type says.
            info = cast("tarfile.TarInfo | None", describer.gettarinfo(path, name))
        except FileNotFoundError:
            continue  # it went meanwhile
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
    """All files with their names, each directory's contents right behind it."""
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
    with open(path, "rb") as file:  # noqa: PTH123 - a path of any bytes
        left = size
        while left:
            chunk = file.read(min(left, CHUNK_B))
            if not chunk:
                raise ConflictError(f"{path} became shorter while it was read.")
            left -= len(chunk)
            yield chunk


class Unpacker:
    """Unpacks an archive that comes in chunks below `top`, whose parent must exist. Files are replaced, directories merged.

    Modes (without setuid and its like), times, links and holes are kept; owners are not, and devices are left out.
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
        """Take the next bytes.

        Raises:
            UnexpectedAnswerError: they are no archive that may be unpacked. OSError: of this machine's disk.
        """
        if self._ended:
            return
        self._buffer += chunk
        try:
            self._work.send(None)
        except StopIteration:
            self._ended = True

    def finish(self) -> None:
        """Raises `UnexpectedAnswerError` unless the archive came to its end."""
        if not self._ended:
            raise _bad("it breaks off")

    def close(self) -> None:
        """Give up what is under way."""
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
            _settle(*made)

    def _entry(self, head: _Head, name: bytes, link: bytes, block: bytes) -> Generator[None]:
        parts = _parts(name)
        path = self._top.joinpath(*parts)
        self._leave(path)
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
            # One that is there stays as it is. The target itself may be behind a link: that is the user's own.
            if not path.is_dir() or (parts and path.is_symlink()):
                raise _bad("a directory leads through a link or a file") from None
        else:
            self._made.append((path, head.mode, head.mtime))

    def _file(self, path: Path, head: _Head, block: bytes) -> Generator[None]:
        size, segments = head.size, [(0, head.size)]
        if head.kind == _SPARSE:
            size, segments = yield from self._sparse(block)
        # Beside its place first: an archive that breaks off leaves the file that was there.
        neighbour = path.with_name(f".{secrets.token_hex(8)}.part")
        try:
            with neighbour.open("xb") as file:
                for offset, length in segments:
                    file.seek(offset)
                    yield from self._content(file, length)
                file.truncate(size)
            yield from self._take(-sum(length for _, length in segments) % BLOCK_B)
            neighbour.chmod(head.mode)
            os.utime(neighbour, (head.mtime, head.mtime))
            neighbour.replace(path)
        except BaseException:
            neighbour.unlink(missing_ok=True)
            raise

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
        """Every step from the target down to `parent` is a directory and no link; what is missing is made."""
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

    def _leave(self, path: Path) -> None:
        """Settle the directories that `path` is not within; entries for them may not come any more."""
        while self._made and not path.is_relative_to(self._made[-1][0]):
            _settle(*self._made.pop())


def _settle(path: Path, mode: int, mtime: int) -> None:
    if path.is_dir() and not path.is_symlink():
        os.utime(path, (mtime, mtime))
        path.chmod(mode)


_LAST_TIME_S = 253_402_300_799
"""The end of the year 9999. Later times overflow what this machine's calls take."""


class _Head:
    """A header block."""

    def __init__(self, block: bytes) -> None:
        if _number(block[148:156]) != sum(block[:148]) + sum(block[156:]) + 8 * 32:
            raise _bad("a header is damaged")
        self.name = block[:100].partition(b"\0")[0]
        self.mode = _number(block[100:108]) & 0o777
        self.size = _number(block[124:136])
        # Times before 1970 are of no file that anybody keeps.
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
    return [os.fsdecode(part) for part in parts]


def _bad(what: str) -> UnexpectedAnswerError:
    return UnexpectedAnswerError(f"The archive that the sandbox sent is not valid: {what}.")
