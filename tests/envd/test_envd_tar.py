"""`/files/tar`: whole directories, both ways."""

from __future__ import annotations

import io
import os
import shutil
import socket
import stat
import subprocess
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from guest_kit import Answer, Envd

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root to act as another user")
needs_tar = pytest.mark.skipif(shutil.which("tar") is None, reason="needs GNU tar")
LONG = "n" * 255
MTIME = 1_234_567_890


def pack(envd: Envd, path: Path | str, **query: str) -> Answer:
    return envd.request("GET", "/files/tar", query={"path": str(path)} | query)


def unpack(envd: Envd, path: Path | str, body: bytes | Iterator[bytes], **query: str) -> Answer:
    return envd.request("POST", "/files/tar", query={"path": str(path)} | query, body=body)


def archive(*members: tuple[tarfile.TarInfo, bytes], form: int = tarfile.PAX_FORMAT) -> bytes:
    target = io.BytesIO()
    with tarfile.open(fileobj=target, mode="w", format=form) as tar:
        for member, content in members:
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return target.getvalue()


def member(name: str, kind: bytes = tarfile.REGTYPE, *, mode: int = 0o644, link: str = "") -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.mode, info.linkname, info.mtime = kind, mode, link, MTIME
    return info


def device() -> tarfile.TarInfo:
    info = member("device", tarfile.CHRTYPE)
    info.devmajor, info.devminor = 1, 3
    return info


def tree(place: Path) -> Path:
    """One of everything."""
    top = place / "tree"
    (top / "empty").mkdir(parents=True)
    (top / "closed").mkdir(mode=0o700)
    (top / "plain").write_bytes(b"content" * 1000)
    (top / "program").write_bytes(b"#!")
    (top / "program").chmod(0o4755)
    (top / "hard").hardlink_to(top / "plain")
    (top / "link").symlink_to("plain")
    (top / "dangling").symlink_to("/no/where/" + "x" * 200)
    (top / LONG / LONG).mkdir(parents=True)
    (top / LONG / LONG / "deep").write_text("deep")
    (top / "new\nline €").write_text("odd")
    Path(os.fsdecode(os.fsencode(top) + b"/\xff\xfe")).write_text("no text")
    os.mkfifo(top / "pipe")
    with (top / "sparse").open("wb") as file:
        file.truncate(64 << 20)
        file.seek(40 << 20)
        file.write(b"in the middle")
    for path in (*top.rglob("*"), top):
        os.utime(path, (MTIME, MTIME), follow_symlinks=False)
    return top


def described(top: Path) -> dict[bytes, tuple[object, ...]]:
    """Everything that is to be kept, by name."""
    found: dict[bytes, tuple[object, ...]] = {}
    for path in top.rglob("*"):
        about = path.lstat()
        kind = stat.S_IFMT(about.st_mode)
        content: object = None
        if stat.S_ISREG(about.st_mode):
            content = hash(path.read_bytes())
        elif stat.S_ISLNK(about.st_mode):
            content = path.readlink()
        mode = 0 if stat.S_ISLNK(about.st_mode) else stat.S_IMODE(about.st_mode)
        found[os.fsencode(path.relative_to(top))] = (kind, mode, int(about.st_mtime), about.st_nlink, content)
    return found


def test_a_tree_comes_back_as_it_was(envd: Envd, place: Path) -> None:
    top = tree(place)
    packed = pack(envd, top)
    assert (packed.status, packed.headers["content-type"]) == (200, "application/x-tar")
    assert len(packed.body) < 1 << 20, "the holes were sent"
    assert unpack(envd, place / "made/copy", packed.body).status == 204
    assert described(place / "made/copy") == described(top)
    assert (place / "made/copy/sparse").stat().st_blocks * 512 < 1 << 20
    assert (place / "made/copy/hard").samefile(place / "made/copy/plain")
    assert int((place / "made/copy").stat().st_mtime) == MTIME


def test_python_reads_what_we_pack(envd: Envd, place: Path) -> None:
    top = tree(place)
    with tarfile.open(fileobj=io.BytesIO(pack(envd, top).body)) as tar:
        tar.extractall(place / "copy", filter="fully_trusted")
    for link in ("link", "dangling"):  # whose times Python leaves alone
        os.utime(place / "copy" / link, (MTIME, MTIME), follow_symlinks=False)
    assert described(place / "copy") == described(top)


@pytest.mark.parametrize("form", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_we_read_what_python_packs(envd: Envd, place: Path, form: int) -> None:
    top = tree(place)
    if form == tarfile.USTAR_FORMAT:  # has no room for these
        shutil.rmtree(top / LONG)
        (top / "dangling").unlink()
    os.utime(top, (MTIME, MTIME))
    target = io.BytesIO()
    with tarfile.open(fileobj=target, mode="w", format=form) as tar:
        tar.add(top, ".")
    assert unpack(envd, place / "copy", target.getvalue()).status == 204
    assert described(place / "copy") == described(top)


@needs_tar
def test_gnu_tar_and_we_understand_each_other(envd: Envd, place: Path) -> None:
    top = tree(place)
    subprocess.run(["tar", "-xpf", "-", "-C", place / "tree/empty"], input=pack(envd, top).body, check=True)
    got = described(top / "empty")
    shutil.rmtree(top / "empty")
    (top / "empty").mkdir()
    os.utime(top / "empty", (MTIME, MTIME))
    wanted = described(top)
    assert {name: facts for name, facts in got.items() if name != b"empty"} == {
        name: facts for name, facts in wanted.items() if name != b"empty"
    }
    for form in ("gnu", "posix"):
        packed = subprocess.run(
            ["tar", "-cSf", "-", f"--format={form}", "-C", top, "."], capture_output=True, check=True
        ).stdout
        assert unpack(envd, place / form, packed).status == 204, form
        assert described(place / form) == wanted, form
        assert (place / form / "sparse").stat().st_blocks * 512 < 1 << 20, form


def test_a_packed_archive_is_taken(envd: Envd, place: Path) -> None:
    import gzip

    body = gzip.compress(archive((member("a/b"), b"x")))
    answer = envd.request(
        "POST", "/files/tar", query={"path": str(place)}, body=body, headers={"Content-Encoding": "gzip"}
    )
    assert answer.status == 204
    assert (place / "a/b").read_bytes() == b"x"


def test_what_exists_is_replaced_and_directories_are_merged(envd: Envd, place: Path) -> None:
    (place / "d").mkdir(mode=0o711)
    (place / "d/kept").write_text("kept")
    (place / "d/file").write_text("old")
    (place / "d/other").hardlink_to(place / "d/file")
    (place / "d/link").symlink_to(place / "d/kept")
    body = archive(
        (member("d", tarfile.DIRTYPE, mode=0o700), b""),
        (member("d/file", mode=0o600), b"new"),
        (member("d/link"), b"a file now"),
    )
    assert unpack(envd, place, body).status == 204
    assert (place / "d/file").read_text() == "new"
    assert (place / "d/other").read_text() == "old"
    assert (place / "d/kept").read_text() == "kept"
    assert (place / "d/link").read_text() == "a file now"
    assert not (place / "d/link").is_symlink()
    assert stat.S_IMODE((place / "d").stat().st_mode) == 0o711
    assert unpack(envd, place, archive((member("d"), b"no directory"))).status == 400


def test_links_within_the_whole_disk_are_followed(envd: Envd, place: Path) -> None:
    """`COPY rootfs/ /` writes below `var/run`, which is an absolute link to `/run` in Debian and Alpine."""
    (place / "run").mkdir()
    (place / "var").mkdir()
    (place / "var/run").symlink_to(place / "run")
    name = str(place / "var/run").lstrip("/")
    body = archive(
        (member(name, tarfile.DIRTYPE), b""),
        (member(f"{name}/app", tarfile.DIRTYPE), b""),
        (member(f"{name}/app/file"), b"content"),
    )
    assert unpack(envd, Path("/"), body).status == 204
    assert (place / "run/app/file").read_text() == "content"
    assert (place / "var/run").is_symlink()
    below = archive((member("var/run/app/file"), b"changed"))
    assert unpack(envd, place, below).status == 400, "not where the link leads outside of the target"
    assert (place / "run/app/file").read_text() == "content"


HOSTILE = {
    "dots": [(member("../escaped"), b"x")],
    "inner dots": [(member("a/../../escaped"), b"x")],
    "absolute": [(member("/tmp/escaped"), b"x")],
    "through a link": [
        (member("out", tarfile.SYMTYPE, link=".."), b""),
        (member("out/escaped"), b"x"),
    ],
    "through an absolute link": [
        (member("out", tarfile.SYMTYPE, link="/"), b""),
        (member("out/escaped"), b"x"),
    ],
    "through a chain of links": [
        (member("a", tarfile.SYMTYPE, link="b/.."), b""),
        (member("b", tarfile.SYMTYPE, link=".."), b""),
        (member("a/escaped"), b"x"),
    ],
    "a directory behind a link": [
        (member("out", tarfile.SYMTYPE, link=".."), b""),
        (member("out", tarfile.DIRTYPE), b""),
        (member("out/escaped"), b"x"),
    ],
    "a hard link to outside": [(member("mine", tarfile.LNKTYPE, link="../victim"), b"")],
    "a hard link through a link": [
        (member("out", tarfile.SYMTYPE, link=".."), b""),
        (member("mine", tarfile.LNKTYPE, link="out/victim"), b""),
    ],
}


@pytest.mark.parametrize("name", HOSTILE)
def test_nothing_is_written_outside(envd: Envd, place: Path, name: str) -> None:
    (place / "victim").write_text("safe")
    answer = unpack(envd, place / "target", archive(*HOSTILE[name]))
    assert answer.status == 400
    assert "outside" in answer.json()["message"]
    assert sorted(p.name for p in place.iterdir()) == ["target", "victim"]
    assert (place / "victim").read_text() == "safe"
    assert (place / "victim").stat().st_nlink == 1
    assert not (Path("/") / "escaped").exists()


def test_a_link_that_leads_within_is_followed_and_one_in_the_way_is_not(envd: Envd, place: Path) -> None:
    (place / "victim").write_text("safe")
    body = archive(
        (member("real", tarfile.DIRTYPE, mode=0o755), b""),
        (member("link", tarfile.SYMTYPE, link="real"), b""),
        (member("link/file"), b"x"),
        (member("name", tarfile.SYMTYPE, link="../victim"), b""),
        (member("name"), b"not through the link"),
    )
    assert unpack(envd, place / "target", body).status == 204
    assert (place / "target/real/file").read_bytes() == b"x"
    assert (place / "victim").read_text() == "safe"
    assert (place / "target/name").read_text() == "not through the link"


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"no archive at all " * 100,
        archive((member("x"), b"content" * 500))[:2048],
        archive((member("x"), b"content"))[:1024],
        archive((member("x", b"Q"), b"")),
        archive((member("a\0b"), b"")).replace(b"\x00", b"\xff", 3),
    ],
    ids=["empty", "text", "cut in content", "no end mark", "unknown type", "damaged"],
)
def test_what_is_no_whole_archive_is_refused(envd: Envd, place: Path, body: bytes) -> None:
    answer = unpack(envd, place / "x", body)
    assert answer.status == 400
    assert "archive" in answer.json()["message"]


def test_an_upload_that_breaks_off_is_no_success(envd: Envd, place: Path) -> None:
    body = archive((member("x"), bytes(100_000)))
    with socket.create_connection((envd.host, envd.port), timeout=30) as connection:
        head = f"POST /files/tar?path={place}/t HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n"
        connection.sendall(head.encode() + body[:50_000])
        connection.shutdown(socket.SHUT_WR)
        answer = connection.recv(4096)
    assert not answer.startswith(b"HTTP/1.1 2")


def test_invalid_requests_are_refused_before_any_byte(envd: Envd, place: Path) -> None:
    (place / "file").touch()
    assert pack(envd, place / "missing").status == 404
    assert pack(envd, place / "file").status == 400
    assert unpack(envd, place / "file", archive()).status == 400
    assert envd.request("GET", "/files/tar").status == 400
    assert pack(envd, place, username="nobody-here").status == 401
    assert envd.request("PUT", "/files/tar", query={"path": str(place)}).status == 405
    assert unpack(envd, place, archive(), owner="nobody-here").status == 400


def test_a_download_that_cannot_go_on_is_cut_off(envd: Envd, place: Path) -> None:
    """Within `/proc` there are files that cannot be read to the length that they say."""
    import http.client

    big = place / "big"
    with big.open("wb") as file:
        file.write(os.urandom(32 << 20))
    connection = http.client.HTTPConnection(envd.host, envd.port, timeout=30)
    connection.request("GET", f"/files/tar?path={place}")
    response = connection.getresponse()
    response.read(100_000)
    os.truncate(big, 1 << 20)
    with pytest.raises(http.client.IncompleteRead):
        response.read()
    connection.close()


@needs_root
def test_a_user_may_only_what_the_user_may(envd: Envd, place: Path) -> None:
    (place / "closed").mkdir(mode=0o700)
    (place / "closed/secret").write_text("x")
    (place / "open").mkdir()
    (place / "open").chmod(0o777)
    assert pack(envd, place / "closed", username="nobody").status == 403
    body = archive((member("a/b", mode=0o640), b"x"), (device(), b""))
    assert unpack(envd, place / "closed", body, username="nobody").status == 403
    assert unpack(envd, place / "open/d", body, username="nobody").status == 403
    assert (place / "open/d/a/b").owner() == "nobody"
    assert not (place / "open/d/device").exists()
    assert unpack(envd, place / "open/e", archive((member("a/b"), b"x")), owner="nobody:daemon").status == 204
    made = place / "open/e/a"
    assert (made.owner(), made.group(), (made / "b").owner()) == ("nobody", "daemon", "nobody")
    refused = unpack(envd, place / "open/f", archive((member("b"), b"x")), username="nobody", owner="root")
    assert refused.status == 403


@needs_root
def test_the_kernels_views_are_left_out(envd: Envd, place: Path) -> None:
    (place / "proc").mkdir()
    envd.shell(f"mount -t proc proc {place}/proc")
    try:
        with tarfile.open(fileobj=io.BytesIO(pack(envd, place).body)) as tar:
            assert tar.getnames() == [".", "proc"]
    finally:
        envd.shell(f"umount {place}/proc")


def test_a_large_tree_passes_in_little_memory(envd: Envd, place: Path) -> None:
    source = place / "source"
    source.mkdir()
    for n in range(4):
        (source / f"f{n}").write_bytes(os.urandom(8 << 20))
    before = peak_kb(envd)
    packed = pack(envd, source).body
    chunks = (packed[at : at + 100_000] for at in range(0, len(packed), 100_000))
    assert unpack(envd, place / "copy", chunks).status == 204
    assert described(place / "copy") == described(source)
    assert peak_kb(envd) - before < 8 * 1024


def peak_kb(envd: Envd) -> int:
    status = Path(f"/proc/{envd.process.pid}/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0])


def test_one_file_is_an_archive_with_the_name_that_is_asked_for(envd: Envd, place: Path) -> None:
    place.mkdir(exist_ok=True)
    (place / "file").write_bytes(b"content" * 100_000)
    (place / "link").symlink_to("file")
    os.mkfifo(place / "pipe")
    for path in (place / "file", place / "link"):
        answer = pack(envd, path, entry_name="other")
        assert answer.status == 200
        with tarfile.open(fileobj=io.BytesIO(answer.body)) as tar:
            (only,) = tar.getmembers()
            assert (only.name, only.type, only.size) == ("other", tarfile.REGTYPE, 700_000)
            extracted = tar.extractfile(only)
            assert extracted is not None
            assert extracted.read() == b"content" * 100_000
    assert pack(envd, place / "file").status == 400
    assert pack(envd, place / "pipe", entry_name="other").status == 400
    assert pack(envd, place, entry_name="other").status == 400
    assert pack(envd, place / "none", entry_name="other").status == 404
    for name in ("a/b", "..", ".", "a\0b"):
        assert pack(envd, place / "file", entry_name=name).status == 400, name


@needs_root
def test_unpacked_files_get_the_owners_of_the_archive_when_that_is_asked_for(envd: Envd, place: Path) -> None:
    folder, file, link = (
        member("d", tarfile.DIRTYPE, mode=0o750),
        member("d/f"),
        member("l", tarfile.SYMTYPE, link="d"),
    )
    top = member(".", tarfile.DIRTYPE, mode=0o755)
    for each in (top, folder, file, link):
        each.uid, each.gid = 4242, 4343
    body = archive((top, b""), (folder, b""), (file, b"x"), (link, b""))

    def owners(name: str, **query: str) -> set[tuple[int, int]]:
        target = place / name
        assert unpack(envd, target, body, username="root", **query).status == 204
        found = [target, *(target / each for each in ("d", "d/f", "l"))]
        return {(about.st_uid, about.st_gid) for about in (path.lstat() for path in found)}

    assert owners("kept", keep_owners="true") == {(4242, 4343)}
    assert owners("roots") == {(0, 0)}
    assert owners("named", keep_owners="true", owner="7:8") == {(7, 8)}
    assert unpack(envd, place / "bad", body, keep_owners="yes").status == 400


def test_a_mode_is_for_all_entries_but_links(envd: Envd, place: Path) -> None:
    body = archive(
        (member("d", tarfile.DIRTYPE, mode=0o700), b""), (member("d/f", mode=0o600), b"x"),
        (member("l", tarfile.SYMTYPE, link="d"), b""),
    )  # fmt: skip
    target = place / "target"
    assert unpack(envd, target, body, mode="0751").status == 204
    assert [stat.S_IMODE((target / name).stat().st_mode) for name in ("d", "d/f")] == [0o751, 0o751]
    assert unpack(envd, target, body, mode="rwx").status == 400


@needs_root
def test_other_file_systems_are_left_out_when_that_is_asked_for(envd: Envd, place: Path) -> None:
    inner = place / "top" / "mounted"
    inner.mkdir(parents=True)
    subprocess.run(["mount", "-t", "tmpfs", "none", inner], check=True)
    try:
        (inner / "file").write_bytes(b"x")

        def names(**query: str) -> list[str]:
            with tarfile.open(fileobj=io.BytesIO(pack(envd, place / "top", **query).body)) as tar:
                return tar.getnames()

        assert names() == [".", "mounted", "mounted/file"]
        assert names(one_file_system="true") == [".", "mounted"]
    finally:
        subprocess.run(["umount", inner], check=True)
