"""Files of a sandbox by the SDK: parts, options, odd names, directories, changes, git; both clients."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from sdk_clients import Box, Platform

from wrenn import (
    AsyncSandbox,
    FileEvent,
    GitAuthenticationError,
    GitError,
    InvalidRequestError,
    InvalidStateError,
    NotFoundError,
    Sandbox,
)

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.usefixtures("platform")]

DEADLINE_S = 30
USER = "user" if os.geteuid() == 0 else "root"
"""Name of the owner of a file of `user`: without root both names are the caller's."""


async def test_a_part_of_a_file_is_read(shared_box: Box) -> None:
    await shared_box.write("/f", "0123456789")
    assert await shared_box.read("/f", offset=2, length=3) == "234"
    assert await shared_box.read("/f", offset=7) == "789"
    assert await shared_box.read("/f", length=4) == "0123"
    assert await shared_box.read("/f", offset=8, length=100) == "89"
    assert await shared_box.read("/f", offset=10) == ""
    with pytest.raises(InvalidRequestError):
        await shared_box.read("/f", offset=-1)
    with pytest.raises(NotFoundError):
        await shared_box.read("/missing", offset=1)


async def test_options_of_a_write_are_sent(shared_box: Box) -> None:
    for data in ("small", iter([b"streamed"])):
        await shared_box.run("cd /tmp; rm -f f former; echo before > f; ln f former", check=True)
        await shared_box.write("/tmp/f", data, mode=0o750, owner="user:user", atomic=True)
        shown = await shared_box.run("cd /tmp; stat -c '%a %U:%G' f; cat former", check=True)
        assert shown.stdout == f"750 {USER}:{USER}\nbefore\n"
        await shared_box.write("/home/user/note", data, user="user")
        assert (await shared_box.stat("/home/user/note")).owner == USER


async def test_names_of_any_bytes_go_all_ways(shared_box: Box) -> None:
    name = b"new\nline \xff\xe2\x82 \xc3\xbc"
    for path in (b"/odd/" + name, os.fsdecode(b"/odd/" + name)):
        await shared_box.write(path, "odd")
        (entry,) = await shared_box.ls("/odd")
        assert (entry.name_bytes, entry.path_bytes) == (name, b"/odd/" + name)
        assert json.loads(json.dumps(entry.path)) == entry.path
        for known in (path, entry.path, entry.path_bytes):
            assert await shared_box.read(known) == "odd"
        await shared_box.move(path, "/plain")
        await shared_box.remove("/plain")
    with pytest.raises(InvalidRequestError):
        await shared_box.read("/\ud800")


async def test_file_types_and_broken_links_are_reported(shared_box: Box) -> None:
    await shared_box.run(
        "mkdir /kinds; cd /kinds; mkfifo pipe; ln -s nowhere broken; ln -s pipe link; mkdir folder"
    )
    entries = {entry.name: entry for entry in await shared_box.ls("/kinds")}
    kinds = {name: (entry.type, entry.kind, entry.broken) for name, entry in entries.items()}
    assert kinds == {
        "pipe": ("file", "fifo", False),
        "broken": ("symlink", "symlink", True),
        "link": ("symlink", "symlink", False),
        "folder": ("directory", "directory", False),
    }
    assert await shared_box.exists("/kinds/broken")


async def test_a_file_is_copied_both_ways(shared_box: Box, tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.write_bytes(os.urandom(600_000))
    source.chmod(0o700)
    told: list[tuple[int, int | None]] = []

    def on_progress(passed: int, total: int | None) -> None:
        told.append((passed, total))

    await shared_box.upload(source, "/x/copy", on_progress=on_progress)
    assert told[-1] == (600_000, 600_000)
    told.clear()
    await shared_box.download("/x/copy", tmp_path / "back", on_progress=on_progress)
    assert told[-1] == (600_000, 600_000)
    assert (tmp_path / "back").read_bytes() == source.read_bytes()
    assert (tmp_path / "back").stat().st_mode & 0o777 == 0o700


async def test_a_directory_is_copied_both_ways(shared_box: Box, tmp_path: Path) -> None:
    top = tmp_path / "top"
    (top / "a/empty").mkdir(parents=True)
    (top / "a/file").write_bytes(os.urandom(700_000))
    (top / "link").symlink_to("a/file")
    told: list[int] = []

    def on_progress(passed: int, total: int | None) -> None:
        assert total is None
        told.append(passed)

    await shared_box.upload(str(top), "/srv/app", on_progress=on_progress)
    assert told == sorted(told)
    assert told[-1] > 700_000
    assert await shared_box.read("/srv/app/link", format="bytes") == (top / "a/file").read_bytes()
    await shared_box.download("/srv/app", tmp_path / "copy")
    assert (tmp_path / "copy/link").readlink() == Path("a/file")
    assert (tmp_path / "copy/a/file").read_bytes() == (top / "a/file").read_bytes()
    (tmp_path / "copy/own").write_text("stays")
    await shared_box.write("/srv/app/new", "new")
    await shared_box.download("/srv/app", tmp_path / "copy")
    names = {path.name for path in (tmp_path / "copy").iterdir()}
    assert names == {"a", "link", "own", "new"}
    # A former download may have made a link, so only a caller who writes the slash is led through it.
    (tmp_path / "elsewhere").symlink_to("copy")
    with pytest.raises(InvalidRequestError, match="symbolic link"):
        await shared_box.download("/srv/app", tmp_path / "elsewhere")
    await shared_box.write("/srv/app/newer", "new")
    await shared_box.download("/srv/app", f"{tmp_path / 'elsewhere'}/")
    assert (tmp_path / "copy/newer").exists()


async def test_a_copy_that_fails_is_reported_and_leaves_nothing(shared_box: Box, tmp_path: Path) -> None:
    for source in (tmp_path / "missing", tmp_path / "missing/below"):
        with pytest.raises(InvalidRequestError, match="missing"):
            await shared_box.upload(source, "/x")
    with pytest.raises(InvalidRequestError, match="atomic"):
        await shared_box.upload(tmp_path, "/x", atomic=True)
    (tmp_path / "into").mkdir()
    with pytest.raises(NotFoundError):
        await shared_box.download("/missing", tmp_path / "into/x")
    await shared_box.write("/f", "x")
    with pytest.raises(InvalidRequestError, match="cannot be written"):
        await shared_box.download("/f", tmp_path / "into/no/x")
    with pytest.raises(InvalidRequestError, match="cannot be written"):
        await shared_box.download("/f", tmp_path / "into")
    assert list((tmp_path / "into").iterdir()) == []


async def test_changes_are_heard_from_the_moment_it_returns(box: Box) -> None:
    await box.make_dir("/w")
    async with asyncio.timeout(DEADLINE_S):
        watch = await box.watch("/w", recursive=True)
        await box.write("/w/a", "x")
        event: FileEvent = await watch.next()
        assert (event.type, event.path, event.name) == ("create", "/w/a", "a")
        heard: list[str] = []

        def on_event(event: FileEvent) -> None:
            if event.type == "create":
                heard.append(event.name)

        await box.write("/w/b", "x")
        await box.pause()
        with pytest.raises(InvalidStateError, match="paused"):
            await watch.run(on_event)
        assert heard == ["b"]
        await watch.close()
        assert await watch.next() is None


async def test_a_watch_that_is_impossible_is_refused(shared_box: Box) -> None:
    with pytest.raises(NotFoundError):
        await shared_box.watch("/missing")


async def test_a_watch_is_closed_by_its_block() -> None:
    async with await AsyncSandbox.create() as sandbox:
        async with await sandbox.files.watch("/") as watch:
            await sandbox.files.write("/a", "x")
            async for event in watch:
                assert event.name == "a"
                break
        assert [event async for event in watch] == []


async def test_git_makes_and_moves_commits(shared_box: Box, tmp_path: Path) -> None:
    git = shared_box.git
    await git.init("repo")
    await shared_box.run("echo one > repo/file; echo x > 'repo/odd name'")
    status = await git.status("repo")
    assert (status.branch, status.changes, status.is_clean) == ("main", ("?? file", "?? odd name"), False)
    await git.add("repo", ["file"])
    await git.add("repo")
    author = {"author_name": "Ada", "author_email": "ada@example.com"}
    first = await git.commit("repo", "first", **author)
    assert len(first) == 40
    assert (await git.status("repo")).is_clean
    await git.clone("repo", "copy")
    await git.create_branch("copy", "feature")
    await shared_box.run("cd copy; git mv file renamed")
    assert (await git.status("copy")).changes == ("R  renamed <- file",)
    await git.commit("copy", "second", **author)
    await git.push("copy")
    assert await git.branches("repo") == ["feature", "main"]
    await git.checkout("copy", "main")
    await git.delete_branch("copy", "feature", force=True)
    await git.commit("repo", "third", allow_empty=True, **author)
    await git.pull("copy")
    status = await git.status("copy")
    assert (status.branch, status.upstream, status.ahead, status.behind) == ("main", "origin/main", 0, 0)
    await git.set_config("user.name", "Eve", path="copy")
    assert await git.get_config("user.name", path="copy") == "Eve"
    assert await git.get_config("no.such", path="copy") is None
    with pytest.raises(GitError, match="no-such"):
        await git.checkout("copy", "no-such")
    with pytest.raises(GitError):
        await git.status("nowhere")


async def test_a_password_is_neither_in_arguments_nor_in_files(box: Box) -> None:
    """A server that wants one, and a look at what git was given."""
    authorization: list[str] = []

    async def server(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        given = [line for line in head.splitlines() if line.lower().startswith("authorization")]
        authorization.extend(given)
        wants = "" if given else 'WWW-Authenticate: Basic realm="git"\r\n'
        writer.write(
            f"HTTP/1.1 {403 if given else 401} No\r\n{wants}Content-Length: 0\r\nConnection: close\r\n\r\n".encode()
        )
        await writer.drain()
        writer.close()

    async with await asyncio.start_server(server, "127.0.0.1", 0) as listening:
        url = f"http://127.0.0.1:{listening.sockets[0].getsockname()[1]}/repo.git"
        with pytest.raises(GitAuthenticationError):
            await box.git.clone(url)
        with pytest.raises(GitError):
            await box.git.clone(url, username="ada", password="s3cret")
    assert authorization == ["Authorization: Basic YWRhOnMzY3JldA=="]
    with pytest.raises(InvalidRequestError, match="beside the URL"):
        await box.git.clone("https://ada:s3cret@example.com/x.git")
    with pytest.raises(InvalidRequestError, match="https"):
        await box.git.clone("http://example.com/x.git", username="ada", password="s3cret")


async def test_credentials_are_sent_to_the_server_alone_that_the_caller_names(
    box: Box, tmp_path: Path
) -> None:
    """A sandbox whose programs changed the remote, and put a hook and a helper where git finds them."""
    requests: list[str] = []

    async def server(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        requests.append((await reader.readuntil(b"\r\n\r\n")).decode())
        wants = "" if "uthorization" in requests[-1] else 'WWW-Authenticate: Basic realm="git"\r\n'
        writer.write(
            f"HTTP/1.1 {401 if wants else 403} No\r\n{wants}Content-Length: 0\r\nConnection: close\r\n\r\n".encode()
        )
        await writer.drain()
        writer.close()

    git, found = box.git, tmp_path / "found"
    login = {"username": "ada", "password": "s3cret"}
    async with await asyncio.start_server(server, "127.0.0.1", 0) as listening:
        evil = f"http://127.0.0.1:{listening.sockets[0].getsockname()[1]}"
        await git.init("repo")
        await git.commit("repo", "first", allow_empty=True, author_name="A", author_email="a@example.com")
        await box.run("git -C repo remote add origin https://git.example.com/x.git")
        for call in (git.push, git.pull):
            with pytest.raises(InvalidRequestError, match="server="):
                await call("repo", **login)
        await box.run(f"git -C repo remote set-url origin {evil}/x.git")
        for call in (git.push, git.pull):
            with pytest.raises(InvalidRequestError, match="not at https://git"):
                await call("repo", server="https://git.example.com", **login)
        assert requests == []
        # What `get-url` does not show is found by git later, and gets no credentials.
        steal = f"env > {found}"
        await box.run(
            f"printf '#!/bin/sh\\n{steal}\\n' > repo/.git/hooks/pre-push; chmod +x repo/.git/hooks/pre-push"
        )
        await box.run(f"git -C repo config core.fsmonitor '{steal}; false'")
        with pytest.raises(GitError):
            await git.push("repo", server=evil, **login)
        assert [request for request in requests if "Basic YWRhOnMzY3JldA==" in request]
        await box.run(
            f"git -C repo config protocol.ext.allow always; git -C repo config url.'ext::sh -c env>&2%20'.insteadOf {evil}/"
        )
        with pytest.raises((GitError, InvalidRequestError)):
            await git.push("repo", server=evil, **login)
    assert not found.exists() or "s3cret" not in found.read_text()


async def test_the_synchronous_client_works_within_a_running_loop(platform: Platform, tmp_path: Path) -> None:
    """As in a notebook, whose cells run in the loop's own thread; the platform is in another process for that."""
    cell = """
import asyncio
from wrenn import Sandbox

async def notebook():
    with Sandbox.create() as sandbox:
        sandbox.files.write("/d/a", "x")
        with sandbox.files.watch("/d") as watch:
            sandbox.files.write("/d/b", "y")
            assert next(watch).name == "b"
        sandbox.files.download("/d", "copy")
        print(sandbox.files.read("/d/a"), sandbox.commands.run("cat /d/b").stdout)

asyncio.run(notebook())
"""
    python = await asyncio.to_thread(
        subprocess.run,
        [sys.executable, "-c", cell],
        cwd=tmp_path,
        env={**os.environ, "WRENN_BASE_URL": platform.url, "WRENN_API_KEY": platform.key},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (python.stdout, python.returncode) == ("x y\n", 0), python.stderr


async def test_both_clients_have_the_same_calls() -> None:
    for one, other in ((Sandbox, AsyncSandbox),):
        assert {n for n in dir(one) if not n.startswith("_")} == {
            n for n in dir(other) if not n.startswith("_")
        }
