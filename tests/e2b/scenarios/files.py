"""Files: contents, listings, metadata, watching."""

# pyright: reportUnknownMemberType=false

from __future__ import annotations

import asyncio
import io
import os
import urllib.error
import urllib.request

import pytest
from e2b import (
    AsyncSandbox,
    FilesystemEvent,
    FilesystemEventType,
    FileType,
    InvalidArgumentException,
    NotFoundException,
    Sandbox,
    SandboxException,
)
from e2b.sandbox.filesystem.filesystem import WriteEntry

TEMPLATE = "minimal"
CREATE, CHMOD, WRITE = FilesystemEventType.CREATE, FilesystemEventType.CHMOD, FilesystemEventType.WRITE


def contents_of_files() -> None:
    with Sandbox.create(TEMPLATE, timeout=120) as sandbox:
        files = sandbox.files
        info = files.write("text.txt", "äöü €\n")
        assert info.name == "text.txt"
        assert info.path.endswith("/text.txt")
        assert files.read("text.txt") == "äöü €\n"
        binary = bytes(range(256)) * 100
        files.write("deep/er/bytes.bin", binary)
        assert bytes(files.read("deep/er/bytes.bin", format="bytes")) == binary
        files.write("stream.bin", io.BytesIO(binary))
        assert b"".join(files.read("stream.bin", format="stream")) == binary
        files.write("empty", "")
        assert files.read("empty") == ""
        files.write("text.txt", "short")
        assert files.read("text.txt") == "short"
        files.write("odd name & more+%41 é.txt", "odd")
        assert files.read("odd name & more+%41 é.txt") == "odd"
        with pytest.raises(NotFoundException):
            files.read("missing")
        with pytest.raises(SandboxException):
            files.read("deep")


def many_files_in_one_call() -> None:
    with Sandbox.create(TEMPLATE, timeout=120) as sandbox:
        entries = [WriteEntry(path=f"many/folder-{n % 7}/{n}.txt", data=f"{n}") for n in range(60)]
        written = sandbox.files.write_files(entries)
        assert [each.name for each in written] == [f"{n}.txt" for n in range(60)]
        assert sandbox.files.read("many/folder-3/59.txt") == "59"
        assert sandbox.files.write_files([]) == []


def large_files() -> None:
    content = os.urandom(1 << 20) * 20
    with Sandbox.create(TEMPLATE, timeout=120) as sandbox:
        sandbox.files.write("large", content)
        assert sandbox.commands.run("wc -c < large").stdout.strip() == str(len(content))
        assert bytes(sandbox.files.read("large", format="bytes")) == content
        sandbox.files.write("large too", io.BytesIO(content))
        received = 0
        for chunk in sandbox.files.read("large too", format="stream"):
            received += len(chunk)
        assert received == len(content)


def compressed_files() -> None:
    with Sandbox.create(TEMPLATE, timeout=120) as sandbox:
        text = "compressible " * 10_000
        sandbox.files.write("packed.txt", text, gzip=True)
        assert sandbox.commands.run("wc -c < packed.txt").stdout.strip() == str(len(text))
        assert sandbox.files.read("packed.txt", gzip=True) == text


def metadata_of_files() -> None:
    with Sandbox.create(TEMPLATE, timeout=120) as sandbox:
        info = sandbox.files.write("noted.txt", "x", metadata={"author": "me", "Purpose": "a test"})
        assert info.metadata == {"author": "me", "purpose": "a test"}
        assert sandbox.files.get_info("noted.txt").metadata == {"author": "me", "purpose": "a test"}
        sandbox.files.write("noted.txt", "y")
        assert not sandbox.files.get_info("noted.txt").metadata


def folders() -> None:
    with Sandbox.create(TEMPLATE, timeout=120) as sandbox:
        files = sandbox.files
        assert files.make_dir("a/b/c")
        assert not files.make_dir("a/b/c")
        files.write("a/one.txt", "1")
        files.write("a/b/two.txt", "22")
        assert [entry.name for entry in files.list("a")] == ["b", "one.txt"]
        deep = [entry.path.rpartition("/a/")[2] for entry in files.list("a", depth=3)]
        assert deep == ["b", "b/c", "b/two.txt", "one.txt"]
        info = files.get_info("a/b/two.txt")
        assert (info.type, info.size, info.permissions, info.mode) == (FileType.FILE, 2, "-rw-r--r--", 0o644)
        assert info.modified_time.tzinfo is not None
        assert files.get_info("a").type == FileType.DIR
        assert files.get_info("a").permissions == "drwxr-xr-x"
        assert files.exists("a/one.txt")
        assert not files.exists("a/none.txt")
        moved = files.rename("a/one.txt", "new/place/uno.txt")
        assert moved.name == "uno.txt"
        assert not files.exists("a/one.txt")
        files.remove("a")
        assert not files.exists("a")
        files.remove("a")
        with pytest.raises(NotFoundException):
            files.list("a")
        with pytest.raises(InvalidArgumentException):
            files.list("new/place/uno.txt")
        with pytest.raises(NotFoundException):
            files.rename("none", "other")
        with pytest.raises(InvalidArgumentException):
            files.make_dir("new/place/uno.txt")


def links() -> None:
    with Sandbox.create(TEMPLATE, timeout=120) as sandbox:
        sandbox.commands.run(
            "mkdir real && echo -n text > real/file && ln -s real/file link && ln -s real folder"
        )
        info = sandbox.files.get_info("link")
        assert info.symlink_target is not None
        assert info.symlink_target.endswith("/real/file")
        assert info.permissions.startswith("L")
        assert sandbox.files.read("link") == "text"
        assert [entry.name for entry in sandbox.files.list("folder")] == ["file"]
        names = [entry.name for entry in sandbox.files.list(".")]
        assert {"link", "folder", "real"} <= set(names), names


def a_watched_folder() -> None:
    with Sandbox.create(TEMPLATE, timeout=120) as sandbox:
        sandbox.files.make_dir("watched")
        handle = sandbox.files.watch_dir("watched")
        sandbox.files.write("watched/new.txt", "x")
        events = handle.get_new_events()
        assert [(event.name, event.type) for event in events] == [
            ("new.txt", CREATE), ("new.txt", CHMOD), ("new.txt", WRITE),
        ]  # fmt: skip
        assert handle.get_new_events() == []
        sandbox.files.rename("watched/new.txt", "watched/moved.txt")
        sandbox.files.remove("watched/moved.txt")
        kinds = [event.type for event in handle.get_new_events()]
        assert FilesystemEventType.RENAME in kinds
        assert FilesystemEventType.REMOVE in kinds
        handle.stop()
        with pytest.raises(SandboxException):
            handle.get_new_events()
        with pytest.raises(NotFoundException):
            sandbox.files.watch_dir("none")


def a_folder_watched_with_all_below_it() -> None:
    with Sandbox.create(TEMPLATE, timeout=120) as sandbox:
        sandbox.files.make_dir("watched")
        handle = sandbox.files.watch_dir("watched", recursive=True)
        sandbox.files.make_dir("watched/sub")
        sandbox.files.write("watched/sub/file.txt", "x")
        events = [(event.name, event.type) for event in handle.get_new_events()]
        assert ("sub", CREATE) in events
        assert events[-3:] == [("sub/file.txt", CREATE), ("sub/file.txt", CHMOD), ("sub/file.txt", WRITE)]
        handle.stop()


async def events_that_are_streamed() -> None:
    sandbox = await AsyncSandbox.create(TEMPLATE, timeout=120)
    try:
        await sandbox.files.make_dir("watched")
        seen: asyncio.Queue[FilesystemEvent] = asyncio.Queue()
        handle = await sandbox.files.watch_dir("watched", on_event=seen.put_nowait)
        await sandbox.files.write("watched/new.txt", "x")
        async with asyncio.timeout(10):
            events = [await seen.get() for _ in range(3)]
        assert [event.type for event in events] == [CREATE, CHMOD, WRITE]
        await handle.stop()
        written = await asyncio.gather(*(sandbox.files.write(f"many/{n}", f"{n}") for n in range(30)))
        assert len(written) == 30
        read = await asyncio.gather(*(sandbox.files.read(f"many/{n}") for n in range(30)))
        assert read == [f"{n}" for n in range(30)]
        chunks = [chunk async for chunk in await sandbox.files.read("many/7", format="stream")]
        assert b"".join(chunks) == b"7"
    finally:
        await sandbox.kill()


def signed_urls() -> None:
    with Sandbox.create(TEMPLATE, timeout=120) as sandbox:
        path = sandbox.files.write("signed.txt", "signed").path
        for url in (
            sandbox.download_url("signed.txt"),
            sandbox.download_url("signed.txt", use_signature_expiration=60),
            sandbox.download_url(path, user="root"),
        ):
            with urllib.request.urlopen(url, timeout=10) as answer:
                assert answer.read() == b"signed"
        upload = urllib.request.Request(
            sandbox.upload_url("sent.txt", use_signature_expiration=60),
            data=b"sent",
            headers={"Content-Type": "application/octet-stream"},
        )
        with urllib.request.urlopen(upload, timeout=10) as answer:
            assert answer.status == 200
        assert sandbox.files.read("sent.txt") == "sent"
        expired = sandbox.download_url("signed.txt", use_signature_expiration=-10)
        altered = sandbox.download_url("signed.txt").replace("signed.txt", "sent.txt")
        for url in (expired, altered):
            with pytest.raises(urllib.error.HTTPError) as refused:
                urllib.request.urlopen(url, timeout=10)
            assert refused.value.code == 401
        of_ended = sandbox.download_url("signed.txt")
    with pytest.raises(urllib.error.HTTPError) as refused:
        urllib.request.urlopen(of_ended, timeout=10)
    assert refused.value.code in (401, 502)


def repositories() -> None:
    with Sandbox.create(TEMPLATE, timeout=120) as sandbox:
        git = sandbox.git
        home = sandbox.commands.run("pwd").stdout.strip()
        git.configure_user("Ada", "ada@example.com", scope="global")
        git.init(f"{home}/origin", bare=True, initial_branch="main")
        git.clone(f"{home}/origin", path=f"{home}/work")
        sandbox.files.write("work/file.txt", "one\n")
        git.add(f"{home}/work")
        git.commit(f"{home}/work", "first", author_name="Ada", author_email="ada@example.com")
        assert git.status(f"{home}/work").is_clean
        git.create_branch(f"{home}/work", "other")
        assert git.branches(f"{home}/work").current_branch == "other"
