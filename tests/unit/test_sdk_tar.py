"""Directories of this machine as archives and back: nothing is lost, and a hostile archive writes nothing elsewhere."""

from __future__ import annotations

import io
import os
import stat
import tarfile
from pathlib import Path

import pytest

from wrenn.sdk._tar import Packed, Unpacker, is_windows_name
from wrenn.sdk.errors import UnexpectedAnswerError

MTIME = 1_234_567_890


def unpack(body: bytes, top: Path, step: int = 1000) -> None:
    unpacker = Unpacker(top)
    try:
        for start in range(0, len(body), step):
            unpacker.feed(body[start : start + step])
        unpacker.finish()
    finally:
        unpacker.close()


def packed(top: Path) -> bytes:
    source = Packed(top)
    return b"".join(iter(lambda: source.read(1), b""))


def archive(*members: tuple[str, bytes, str, bytes]) -> bytes:
    target = io.BytesIO()
    with tarfile.open(fileobj=target, mode="w", format=tarfile.GNU_FORMAT) as tar:
        for name, kind, link, content in members:
            info = tarfile.TarInfo(name)
            info.type, info.linkname, info.size, info.mode = kind, link, len(content), 0o4755
            tar.addfile(info, io.BytesIO(content))
    return target.getvalue()


def described(top: Path) -> dict[bytes, tuple[object, ...]]:
    found: dict[bytes, tuple[object, ...]] = {}
    for path in top.rglob("*"):
        about = path.lstat()
        is_link = stat.S_ISLNK(about.st_mode)
        content = path.read_bytes() if stat.S_ISREG(about.st_mode) else b""
        facts = (
            (path.readlink(),) if is_link else (about.st_mode, int(about.st_mtime), about.st_nlink, content)
        )
        found[os.fsencode(path.relative_to(top))] = facts
    return found


def test_a_tree_comes_back_as_it_was(tmp_path: Path) -> None:
    top = tmp_path / "top"
    (top / "a/empty").mkdir(parents=True)
    (top / "a/closed").mkdir(mode=0o500)
    (top / "plain").write_bytes(os.urandom(700_000))
    (top / "plain").chmod(0o750)
    (top / "hard").hardlink_to(top / "plain")
    (top / "link").symlink_to("/absolute/" + "x" * 200)
    (top / ("n" * 250)).write_text("long")
    Path(os.fsdecode(os.fsencode(top) + b"/\xff\n")).write_text("odd")
    os.mkfifo(top / "pipe")
    for path in (*top.rglob("*"), top):
        os.utime(path, (MTIME, MTIME), follow_symlinks=False)
    top.chmod(0o711)
    for step in (100, 1_000_000):
        unpack(packed(top), tmp_path / f"copy{step}", step)
        assert described(tmp_path / f"copy{step}") == described(top)
        assert (tmp_path / f"copy{step}").stat().st_mode & 0o777 == 0o711
    with tarfile.open(fileobj=io.BytesIO(packed(top))) as tar:
        assert len(tar.getnames()) == len(described(top)) + 1


def test_what_exists_is_replaced_and_directories_are_merged(tmp_path: Path) -> None:
    (tmp_path / "d").mkdir(mode=0o700)
    (tmp_path / "d/kept").write_text("kept")
    (tmp_path / "d/file").symlink_to("kept")
    body = archive(("d", tarfile.DIRTYPE, "", b""), ("d/file", tarfile.REGTYPE, "", b"new"))
    unpack(body, tmp_path)
    assert ((tmp_path / "d/file").read_text(), (tmp_path / "d/kept").read_text()) == ("new", "kept")
    assert stat.S_IMODE((tmp_path / "d").stat().st_mode) == 0o700
    assert stat.S_IMODE((tmp_path / "d/file").stat().st_mode) == 0o755, "setuid is not taken over"


HOSTILE = {
    "dots": [("../escaped", tarfile.REGTYPE, "", b"x")],
    "absolute": [("/tmp/escaped", tarfile.REGTYPE, "", b"x")],
    "through a link": [("out", tarfile.SYMTYPE, "..", b""), ("out/escaped", tarfile.REGTYPE, "", b"x")],
    "a directory behind a link": [
        ("out", tarfile.SYMTYPE, "..", b""),
        ("out", tarfile.DIRTYPE, "", b""),
        ("out/escaped", tarfile.REGTYPE, "", b"x"),
    ],
    "deep": [("out", tarfile.SYMTYPE, "..", b""), ("out/new/escaped", tarfile.REGTYPE, "", b"x")],
    "a hard link to outside": [("mine", tarfile.LNKTYPE, "../victim", b"")],
    "a hard link through a link": [
        ("out", tarfile.SYMTYPE, "..", b""),
        ("mine", tarfile.LNKTYPE, "out/victim", b""),
    ],
    "a hard link to a link": [
        ("out", tarfile.SYMTYPE, "../victim", b""),
        ("mine", tarfile.LNKTYPE, "out", b""),
    ],
    "an unknown type": [("x", b"Q", "", b"")],
}


@pytest.mark.parametrize("name", HOSTILE)
def test_nothing_is_written_outside(tmp_path: Path, name: str) -> None:
    (tmp_path / "victim").write_text("safe")
    (tmp_path / "top").mkdir()
    with pytest.raises(UnexpectedAnswerError):
        unpack(archive(*HOSTILE[name]), tmp_path / "top")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["top", "victim"]
    assert ((tmp_path / "victim").read_text(), (tmp_path / "victim").stat().st_nlink) == ("safe", 1)


def test_an_archive_that_lies_or_breaks_off_is_refused(tmp_path: Path) -> None:
    good = archive(("x", tarfile.REGTYPE, "", bytes(3000)))
    long_name = tarfile.TarInfo("y")
    long_name.type, long_name.size = tarfile.GNUTYPE_LONGNAME, 1 << 40
    for body in (
        b"",
        b"no archive " * 100,
        good[:2000],
        good[:3584],
        good.replace(b"x", b"y", 1),
        long_name.tobuf(),
    ):
        with pytest.raises(UnexpectedAnswerError):
            unpack(body, tmp_path / "top")


def test_holes_are_preserved(tmp_path: Path) -> None:
    """Whether the archive says them or not."""
    header = tarfile.TarInfo("sparse")
    header.size = 8 << 20
    body = header.tobuf() + bytes(8 << 20) + bytes(1024)
    unpack(archive((".", tarfile.DIRTYPE, "", b""))[:512] + body, tmp_path / "top", 1 << 20)
    about = (tmp_path / "top/sparse").stat()
    assert (about.st_size, about.st_blocks) == (8 << 20, 0)


def test_a_time_that_no_clock_shows_and_a_link_to_the_target_are_no_traceback(tmp_path: Path) -> None:
    body = bytearray(archive(("late", tarfile.REGTYPE, "", b"content")))
    # Beyond what a system call takes: base 256 with 2**64 and more.
    body[136:148] = b"\x80" + b"\0\0\xff" + b"\xff" * 8
    body[148:156] = b" " * 8
    body[148:156] = b"%06o\0 " % sum(body[:512])
    unpack(bytes(body), tmp_path / "top")
    assert (tmp_path / "top/late").read_bytes() == b"content"
    for link in (".", "./", "a/.."):
        with pytest.raises(UnexpectedAnswerError):
            unpack(archive(("to-top", tarfile.LNKTYPE, link, b"")), tmp_path / "top")


def test_an_archive_that_breaks_off_leaves_the_file_that_was_there(tmp_path: Path) -> None:
    top = tmp_path / "top"
    top.mkdir()
    (top / "file").write_text("before")
    body = archive(("file", tarfile.REGTYPE, "", b"x" * 5000))
    with pytest.raises(UnexpectedAnswerError):
        unpack(body[:3000], top)
    assert [(path.name, path.read_text()) for path in top.iterdir()] == [("file", "before")]


def test_a_file_is_readable_by_its_owner_only_until_it_is_complete(tmp_path: Path) -> None:
    body = archive(("file", tarfile.REGTYPE, "", bytes(100_000)))
    unpacker = Unpacker(tmp_path / "top")
    unpacker.feed(body[:50_000])
    (part,) = (tmp_path / "top").iterdir()
    assert stat.S_IMODE(part.stat().st_mode) == 0o600
    unpacker.feed(body[50_000:])
    unpacker.finish()
    assert stat.S_IMODE((tmp_path / "top/file").stat().st_mode) == 0o755


@pytest.mark.parametrize(
    "name", ["..\\..\\x", "c:x", "c:\\x", "file:stream", "\\x", "NUL", "con.txt", "a\\b"]
)
def test_what_windows_takes_for_more_than_a_name_is_known(name: str) -> None:
    assert not is_windows_name(name)
    assert is_windows_name("an ordinary name.txt")


def test_an_archive_of_too_many_levels_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UnexpectedAnswerError, match="levels"):
        unpack(archive(("a/" * 1000 + "a", tarfile.REGTYPE, "", b"")), tmp_path / "top")
    assert not (tmp_path / "top").exists()
