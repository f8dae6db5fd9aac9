"""`/files`: contents, streamed both ways."""

from __future__ import annotations

import base64
import gzip
import hashlib
import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from guest_kit import Answer, Envd

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root to act as another user")
TOKEN = "a secret of the test"


def multipart(*parts: tuple[str | None, bytes], boundary: str = "XX") -> tuple[bytes, dict[str, str]]:
    body = b""
    for filename, content in parts:
        name = f'; filename="{filename}"' if filename is not None else ""
        head = f'--{boundary}\r\nContent-Disposition: form-data; name="file"{name}\r\n\r\n'
        body += head.encode() + content + b"\r\n"
    return body + f"--{boundary}--\r\n".encode(), {
        "Content-Type": f"multipart/form-data; boundary={boundary}"
    }


def post(envd: Envd, body: bytes | Iterator[bytes], headers: dict[str, str], **query: str) -> Answer:
    return envd.request("POST", "/files", query=query, body=body, headers=headers)


def test_a_file_comes_back_as_it_was_written(envd: Envd, place: Path) -> None:
    content = os.urandom(3_000_000)
    answer = envd.write(place / "deep/er/file.bin", content)
    assert answer.json() == [
        {"name": "file.bin", "path": str(place / "deep/er/file.bin"), "type": "file"},
    ]
    back = envd.read(place / "deep/er/file.bin")
    assert back.body == content
    assert back.headers["content-length"] == str(len(content))
    assert 'filename="file.bin"' in back.headers["content-disposition"]
    assert (place / "deep/er/file.bin").stat().st_mode & 0o777 == 0o644
    assert (place / "deep/er").stat().st_mode & 0o777 == 0o755


def test_a_chunked_upload_needs_no_length(envd: Envd, place: Path) -> None:
    parts = [os.urandom(70_000) for _ in range(40)]
    headers = {"Content-Type": "application/octet-stream"}
    assert post(envd, iter(parts), headers, path=str(place / "f")).status == 200
    assert (place / "f").read_bytes() == b"".join(parts)


def test_an_empty_file_has_the_length_zero(envd: Envd, place: Path) -> None:
    assert envd.write(place / "empty", b"").status == 200
    answer = envd.read(place / "empty")
    assert (answer.status, answer.headers["content-length"]) == (200, "0")


def test_a_file_is_overwritten_in_place(envd: Envd, place: Path) -> None:
    file = place / "f"
    file.write_text("a longer content than the next")
    file.chmod(0o600)
    inode = file.stat().st_ino
    envd.write(file, b"short")
    assert file.read_bytes() == b"short"
    assert (file.stat().st_ino, file.stat().st_mode & 0o777) == (inode, 0o600)


@pytest.mark.parametrize(
    "content", [b"", b"x", b"\r\n--XY\r", b"--XX--\r\n", b"\r\n--X", os.urandom(900_000)]
)
def test_a_form_is_read_whatever_is_in_it(envd: Envd, place: Path, content: bytes) -> None:
    body, headers = multipart((None, content))
    assert post(envd, body, headers, path=str(place / "f")).status == 200
    assert (place / "f").read_bytes() == content


def test_a_form_names_many_files_with_their_directories(envd: Envd, place: Path) -> None:
    files = {f"{place}/d{n}/f{n}": b"%d" % n for n in range(5)}
    body, headers = multipart(*files.items())
    answer = post(envd, iter([body[:37], body[37:200], body[200:]]), headers)
    assert [e["path"] for e in answer.json()] == list(files)
    for path, content in files.items():
        assert Path(path).read_bytes() == content


@pytest.mark.parametrize("form", [False, True])
def test_a_packed_upload_is_unpacked(envd: Envd, place: Path, form: bool) -> None:
    content = b"compress me " * 200_000
    body, headers = multipart((None, content)) if form else (content, {})
    answer = post(envd, gzip.compress(body), headers | {"Content-Encoding": "gzip"}, path=str(place / "f"))
    assert answer.status == 200
    assert (place / "f").read_bytes() == content


def test_ranges_are_served(envd: Envd, place: Path) -> None:
    (place / "f").write_bytes(b"0123456789")
    (place / "big").write_bytes(bytes(1_000_000) + b"end")
    part = envd.read(place / "f", {"Range": "bytes=2-4"})
    assert (part.status, part.body, part.headers["content-range"]) == (206, b"234", "bytes 2-4/10")
    assert envd.read(place / "big", {"Range": "bytes=-3"}).body == b"end"
    assert envd.read(place / "f", {"Range": "bytes=10-"}).status == 416


def test_a_download_goes_on_where_it_broke_off_unless_the_file_changed(envd: Envd, place: Path) -> None:
    (place / "f").write_bytes(b"0123456789")
    tag = envd.read(place / "f").headers["etag"]
    rest = {"Range": "bytes=4-", "If-Range": tag}
    assert (envd.read(place / "f", rest).status, envd.read(place / "f", rest).body) == (206, b"456789")
    with (place / "f").open("ab") as file:
        file.write(b"more")
    changed = envd.read(place / "f", rest)
    assert (changed.status, changed.body) == (200, b"0123456789more")
    assert changed.headers["etag"] != tag


def test_mode_and_owner_are_set_when_they_are_named(envd: Envd, place: Path) -> None:
    file = place / "f"
    assert post(envd, b"x", {}, path=str(file), mode="0750").status == 200
    assert file.stat().st_mode & 0o7777 == 0o750
    for wrong in ({"mode": "999"}, {"mode": "-1"}, {"owner": "nobody-here"}, {"atomic": "perhaps"}):
        assert post(envd, b"other", {}, path=str(file), **wrong).status == 400
    assert file.read_bytes() == b"x"


@needs_root
def test_only_root_changes_the_owner_of_a_file(envd: Envd, place: Path) -> None:
    file = place / "f"
    assert post(envd, b"x", {}, path=str(file), owner="nobody:daemon", mode="4755").status == 200
    assert (file.owner(), file.group(), file.stat().st_mode & 0o7777) == ("nobody", "daemon", 0o4755)
    assert post(envd, b"x", {}, path=str(place / "g"), username="nobody", owner="root").status == 403


def test_a_replacement_is_whole_or_nothing(envd: Envd, place: Path) -> None:
    file = place / "f"
    file.write_text("old")
    file.chmod(0o640)
    before = file.stat().st_ino
    with socket.create_connection((envd.host, envd.port), timeout=30) as connection:
        head = f"POST /files?path={file}&atomic=true HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000\r\n\r\n"
        connection.sendall(head.encode() + bytes(900_000))
        deadline = time.monotonic() + 30
        while len(list(place.iterdir())) == 1:
            assert time.monotonic() < deadline
        assert file.read_text() == "old"
    while len(list(place.iterdir())) > 1:
        assert time.monotonic() < deadline, list(place.iterdir())
    assert file.read_text() == "old"
    assert post(envd, b"new", {}, path=str(file), atomic="true").status == 200
    assert (file.read_text(), file.stat().st_mode & 0o777) == ("new", 0o640)
    assert file.stat().st_ino != before
    assert [p.name for p in place.iterdir()] == ["f"]


@pytest.mark.parametrize("size", [1000, 100_000, 2_000_000])
def test_an_upload_that_breaks_off_leaves_the_old_file(envd: Envd, place: Path, size: int) -> None:
    file = place / "f"
    file.write_text("old")
    for target in (file, place / "new"):
        with socket.create_connection((envd.host, envd.port), timeout=30) as connection:
            head = f"POST /files?path={target} HTTP/1.1\r\nHost: x\r\nContent-Length: {size}\r\n\r\n"
            connection.sendall(head.encode() + bytes(size - 1))
            connection.shutdown(socket.SHUT_WR)
            assert b"200" not in connection.recv(100)
    deadline = time.monotonic() + 30
    while [p.name for p in place.iterdir()] != ["f"]:
        assert time.monotonic() < deadline, list(place.iterdir())
    assert file.read_text() == "old"


def test_a_large_upload_keeps_what_belongs_to_the_file(envd: Envd, place: Path) -> None:
    content = os.urandom(1_500_000)
    file = place / "f"
    file.write_text("old")
    file.chmod(0o604)
    os.setxattr(file, "user.kept", b"value")
    assert post(envd, b"x", {"X-Metadata-Gone": "1"}, path=str(file)).status == 200
    assert post(envd, content, {"X-Metadata-New": "2"}, path=str(file)).status == 200
    assert (file.read_bytes(), file.stat().st_mode & 0o777) == (content, 0o604)
    assert sorted(os.listxattr(file)) == ["user.e2b.new", "user.kept"]
    assert os.getxattr(file, "user.kept") == b"value"
    # What has two names keeps both, and a link stays one.
    os.link(file, place / "twin")
    (place / "link").symlink_to("f")
    assert post(envd, content[::-1], {}, path=str(place / "link")).status == 200
    assert (place / "link").is_symlink()
    assert (place / "twin").read_bytes() == file.read_bytes() == content[::-1]
    (place / "dangling").symlink_to("made")
    assert post(envd, content, {}, path=str(place / "dangling")).status == 200
    assert (place / "dangling").is_symlink()
    assert (place / "made").read_bytes() == content


@needs_root
def test_a_large_upload_goes_where_no_name_can_be_made(envd: Envd, place: Path) -> None:
    content = os.urandom(1_500_000)
    fixed = place / "fixed"
    fixed.mkdir()
    (fixed / "f").write_text("old")
    os.chown(fixed / "f", 65534, 65534)
    sticky = place / "sticky"
    sticky.mkdir()
    sticky.chmod(0o1777)
    (sticky / "f").write_text("old")
    (sticky / "f").chmod(0o666)
    for folder in (fixed, sticky):
        assert post(envd, content, {}, path=str(folder / "f"), username="nobody").status == 200
        assert (folder / "f").read_bytes() == content
        assert [p.name for p in folder.iterdir()] == ["f"]


def test_a_replacement_goes_through_a_link_and_into_new_folders(envd: Envd, place: Path) -> None:
    (place / "real").write_text("old")
    (place / "link").symlink_to("real")
    assert post(envd, b"new", {}, path=str(place / "link"), atomic="true").status == 200
    assert ((place / "link").is_symlink(), (place / "real").read_text()) == (True, "new")
    assert post(envd, b"new", {}, path=str(place / "a/b"), atomic="true", mode="600").status == 200
    assert (place / "a/b").stat().st_mode & 0o777 == 0o600
    assert post(envd, b"x", {}, path=str(place / "a"), atomic="true").status == 400
    os.mkfifo(place / "pipe")
    assert post(envd, b"x", {}, path=str(place / "pipe"), atomic="true").status == 400


def test_files_of_the_kernel_are_read_to_their_end(envd: Envd) -> None:
    assert b"MemTotal" in envd.read("/proc/meminfo").body


def test_invalid_reads_have_different_errors(envd: Envd, place: Path) -> None:
    os.mkfifo(place / "pipe")
    missing = envd.read(place / "missing")
    assert (missing.status, missing.json()["code"]) == (404, 404)
    assert envd.read(place).status == 400
    assert envd.read(place / "pipe").status == 400
    assert envd.request("GET", "/files").status == 400
    assert envd.read(place, {"Accept-Encoding": "identity;q=0, br"}).status == 406
    answer = envd.request("GET", "/files", query={"path": "/etc/passwd", "username": "nobody-here"})
    assert (answer.status, answer.json()["message"]) == (401, "invalid username: 'nobody-here'")


def test_invalid_writes_have_different_errors(envd: Envd, place: Path) -> None:
    os.mkfifo(place / "pipe")
    (place / "file").touch()
    assert envd.write(place, b"x").status == 400
    assert envd.write(place / "pipe", b"x").status == 400
    assert envd.write(place / "file/below", b"x").status == 400
    assert envd.request("POST", "/files", body=b"x").status == 400
    assert post(envd, b"no gzip", {"Content-Encoding": "gzip"}, path=str(place / "g")).status == 400
    assert post(envd, b"--XX\r\nbroken", multipart()[1], path=str(place / "g")).status == 400


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a file system to fill")
@needs_root
def test_a_full_disk_is_507(envd: Envd, place: Path) -> None:
    envd.shell(f"mount -t tmpfs -o size=1m tmpfs {place}")
    try:
        answer = envd.write(place / "big", bytes(4 << 20))
        assert answer.status == 507
        assert "not enough disk space" in answer.json()["message"]
    finally:
        envd.shell(f"umount {place}")


@needs_root
def test_a_user_may_only_what_the_user_may(envd: Envd, place: Path) -> None:
    (place / "closed").mkdir(mode=0o700)
    (place / "closed/secret").write_text("x")

    def status(method: str, path: Path | str) -> int:
        query = {"path": str(path), "username": "nobody"}
        return envd.request(method, "/files", query=query, body=b"x" if method == "POST" else None).status

    assert status("POST", place / "closed/new") == 403
    assert status("GET", place / "closed/secret") == 403
    assert status("POST", "/root/x") == 403
    assert status("GET", "/etc/shadow") == 403
    assert status("GET", "/proc/self/fd/0") >= 400
    assert status("POST", place / "d/own") == 200
    assert ((place / "d/own").owner(), (place / "d").owner()) == ("nobody", "nobody")


def test_metadata_is_stored_and_replaced(envd: Envd, place: Path) -> None:
    file = str(place / "f")
    probe = envd.write(file, b"x", **{"X-Metadata-Author": "me", "X-Metadata-Kind": "draft"})
    if probe.status != 200:
        pytest.skip("this file system keeps no attributes")
    assert probe.json()[0]["metadata"] == {"author": "me", "kind": "draft"}

    def stored_metadata() -> dict[str, str]:
        entry = envd.call("filesystem.Filesystem/Stat", {"path": file}).json()["entry"]
        return entry.get("metadata", {})

    assert stored_metadata() == {"author": "me", "kind": "draft"}
    envd.write(file, b"y")
    assert stored_metadata() == {}
    assert envd.write(file, b"x", **{"X-Metadata-A": "v" * 5000}).status == 400


def sign(path: str, operation: str, expiration: int | None = None, user: str = "") -> dict[str, str]:
    text = f"{path}:{operation}:{user}:{TOKEN}" + (f":{expiration}" if expiration is not None else "")
    digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode().rstrip("=")
    query = {"path": path, "signature": "v1_" + digest}
    if expiration is not None:
        query["signature_expiration"] = str(expiration)
    return query | ({"username": user} if user else {})


def test_a_signature_stands_in_for_the_token(envd: Envd, place: Path) -> None:
    assert envd.request("POST", "/init", body=b'{"accessToken":"%s"}' % TOKEN.encode()).status == 204
    path = str(place / "f")
    later = int(time.time()) + 60

    def message(method: str, query: dict[str, str]) -> tuple[int, str]:
        answer = envd.request(method, "/files", query=query, body=b"x" if method == "POST" else None)
        return answer.status, "" if answer.status == 200 else answer.json()["message"]

    assert message("POST", sign(path, "write", later))[0] == 200
    assert message("GET", sign(path, "read"))[0] == 200
    assert message("GET", sign(path, "read", user="root"))[0] == 200
    assert message("GET", sign(path, "write")) == (401, "invalid signature")
    assert message("GET", sign(path, "read", 1)) == (401, "signature is already expired")
    assert message("GET", sign(path, "read", later) | {"signature_expiration": str(later + 1)})[0] == 401
    assert message("GET", {"path": path})[0] == 401
    # Whoever may write a file by its URL may not make a setuid program of it.
    assert message("POST", sign(path, "write", later) | {"mode": "4755"})[0] == 401
    assert message("POST", sign(path, "write", later) | {"owner": "root"})[0] == 401
    assert envd.request("GET", "/files/tar", query=sign(str(place), "read", later)).status == 401
