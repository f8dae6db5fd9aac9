"""Files of a real guest through the whole platform, by the SDK: what only shows there."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.vm.platform import Platform
from wrenn import (
    AsyncSandbox,
    AsyncWatch,
    CapacityError,
    ForbiddenError,
    InvalidRequestError,
    InvalidStateError,
    NotFoundError,
    WrennError,
)
from wrenn.base.units import MIB

DEADLINE_S = 120


@pytest.fixture
async def sandbox(platform: Platform) -> AsyncIterator[AsyncSandbox]:
    made = await AsyncSandbox.create(
        memory_mb=256, api_key=platform.key, base_url=platform.base_url, request_timeout_s=90
    )
    yield made
    await made.kill()


async def output(sandbox: AsyncSandbox, script: str) -> str:
    return (await sandbox.commands.run(script, check=True, timeout_s=60)).stdout


async def last_words(watch: AsyncWatch) -> None:
    """Listen to the end, which is an error."""
    async for _ in watch:
        pass


async def test_ranges_write_options_names_and_file_types(sandbox: AsyncSandbox) -> None:
    files = sandbox.files
    await files.write("/srv/f", b"0123456789", mode=0o640, owner="user:users")
    assert await files.read("/srv/f", offset=3, length=4) == "3456"
    assert await files.read("/srv/f", offset=10) == ""
    assert await output(sandbox, "stat -c '%a %U %G' /srv/f") == "640 user users\n"
    inode = await output(sandbox, "stat -c %i /srv/f")
    await files.write("/srv/f", b"new", atomic=True)
    assert await output(sandbox, "cat /srv/f; stat -c ' %a' /srv/f; ls -A /srv") == "new 640\nf\n"
    assert await output(sandbox, "stat -c %i /srv/f") != inode
    assert (await files.read("/proc/meminfo", offset=0, length=8)) == "MemTotal"
    with pytest.raises(ForbiddenError):
        await files.write("/srv/f", b"x", user="user", owner="root")
    for name in (b"a\nb", b"\xff\xfe", b"\xff" * 255, "grün".encode()):
        path = b"/srv/odd/" + name
        await files.write(path, name)
        (entry,) = await files.list("/srv/odd")
        assert (entry.name_bytes, await files.read(entry.path, format="bytes")) == (name, name)
        await files.move(entry.path, "/srv/plain")
        await files.remove("/srv/plain")
    await output(
        sandbox,
        "mkdir /srv/k; cd /srv/k; mkfifo fifo; ln -s nowhere broken; ln -s /srv link; mkdir dir; mknod null c 1 3;"
        "mknod disk b 8 0; python3 -c 'import socket; socket.socket(socket.AF_UNIX).bind(\"sock\")'",
    )
    kinds = {entry.name: (entry.type, entry.kind, entry.broken) for entry in await files.list("/srv/k")}
    assert kinds == {
        "broken": ("symlink", "symlink", True),
        "dir": ("directory", "directory", False),
        "disk": ("file", "block_device", False),
        "fifo": ("file", "fifo", False),
        "link": ("symlink", "symlink", False),
        "null": ("file", "char_device", False),
        "sock": ("file", "socket", False),
    }


async def test_files_written_by_root_get_the_owner_of_their_directory(
    sandbox: AsyncSandbox, tmp_path: Path
) -> None:
    files = sandbox.files

    async def owners(*paths: str) -> list[str]:
        return (await output(sandbox, f"stat -c %U:%G {' '.join(paths)}")).split()

    # New files and folders in a home, made by every call that makes some.
    home = "/home/user"
    await files.write(f"{home}/a/b/plain", b"x")
    await files.write(f"{home}/c/atomic", b"x", atomic=True)
    await files.make_dir(f"{home}/d/e")
    await files.write("/root/moved", b"x")
    await files.move("/root/moved", f"{home}/f/moved")
    (tmp_path / "tree/sub").mkdir(parents=True)
    (tmp_path / "tree/sub/file").write_text("x")
    (tmp_path / "tree/link").symlink_to("sub")
    await files.upload(tmp_path / "tree", f"{home}/g/tree")
    made = [
        "a",
        "a/b",
        "a/b/plain",
        "c",
        "c/atomic",
        "d",
        "d/e",
        "f",
        "g",
        "g/tree",
        "g/tree/sub",
        "g/tree/sub/file",
    ]
    paths = [f"{home}/{name}" for name in [*made, "g/tree/link"]]
    assert await owners(*paths) == ["user:user"] * len(paths)
    # What was there keeps its owner and its mode.
    await output(
        sandbox,
        "mkdir /srv/t; for f in 1 2 t/3; do echo > /srv/$f; chmod 4740 /srv/$f; chown user:games /srv/$f; done"
        "; chmod 4740 /srv/1 /srv/2 /srv/t/3",
    )
    await files.write("/srv/1", b"new")
    await files.write("/srv/2", b"new", atomic=True)
    (tmp_path / "tree/3").write_text("new")
    await files.upload(tmp_path / "tree", "/srv/t")
    assert await owners("/srv/1", "/srv/2", "/srv/t/3") == ["user:games"] * 3
    assert await output(sandbox, "stat -c %a /srv/1 /srv/2") == "4740\n4740\n"
    # Elsewhere it is root's, also behind a link out of a home, and a named owner has precedence.
    await output(
        sandbox, f"ln -s /opt {home}/out; ln -s /opt/late {home}/late; chown -h user {home}/out {home}/late"
    )
    await files.write("/srv/root/file", b"x")
    await files.write(f"{home}/out/dir/file", b"x")
    await files.write(f"{home}/late", b"x")
    await files.write(f"{home}/named", b"x", owner="games:games")
    assert (
        await owners("/srv/root", "/srv/root/file", "/opt/dir", "/opt/dir/file", "/opt/late")
        == ["root:root"] * 5
    )
    assert await owners(f"{home}/named") == ["games:games"]
    # The user's own writes are the user's, and leave the owner of a file that all may write to.
    await output(sandbox, "touch /srv/all; chmod 666 /srv/all")
    await files.write("/srv/all", b"x", user="user")
    await files.write("/tmp/mine", b"x", user="user")
    assert await owners("/srv/all", "/tmp/mine") == ["root:root", "user:user"]


async def test_every_call_that_writes_says_when_the_disk_of_the_sandbox_is_full(
    sandbox: AsyncSandbox, tmp_path: Path
) -> None:
    files = sandbox.files
    await output(
        sandbox,
        "mkdir /full && fallocate -l $(( $(df --output=avail -k / | tail -1) - 2048 ))K /filler;"
        "dd if=/dev/zero of=/filler2 bs=64k 2>/dev/null; sync; dd if=/dev/zero of=/filler3 bs=1k 2>/dev/null; sync",
    )
    (tmp_path / "tree").mkdir()
    (tmp_path / "tree/file").write_bytes(os.urandom(MIB))
    await files.write("/run/source", b"x")

    async def chunks() -> AsyncIterator[bytes]:
        for _ in range(16):
            yield os.urandom(64 * 1024)

    calls = {
        "write": files.write("/full/file", os.urandom(MIB)),
        "stream": files.write("/full/stream", chunks()),
        "atomic": files.write("/full/atomic", os.urandom(MIB), atomic=True),
        "mkdir": files.make_dir("/full/dir/below"),
        "rename": files.move("/full", "/other/place/below"),
        "tree": files.upload(tmp_path / "tree", "/full/tree"),
    }
    for name, call in calls.items():
        with pytest.raises(CapacityError) as raised:
            await call
        assert (raised.value.code, raised.value.status) == ("storage_full", 507), name
    assert await output(sandbox, "echo it goes on") == "it goes on\n"


async def test_a_recursive_watch_has_the_promised_number_of_directories_and_says_when_there_are_more(
    sandbox: AsyncSandbox,
) -> None:
    await output(sandbox, "mkdir /dev/shm/w && cd /dev/shm/w && seq 16383 | xargs mkdir")
    async with await sandbox.files.watch("/dev/shm/w", recursive=True) as watch:
        await output(sandbox, "touch /dev/shm/w/16383/last")
        assert (await anext(aiter(watch))).path == "/dev/shm/w/16383/last"
        # One more is one too many, and the watch does not go on as if it saw everything.
        await output(sandbox, "mkdir /dev/shm/w/more")
        with pytest.raises(WrennError, match="more than 16384 directories"):
            await last_words(watch)
    await output(sandbox, "rmdir /dev/shm/w/more && echo 1000 > /proc/sys/fs/inotify/max_user_watches")
    with pytest.raises(WrennError, match="limit of 1000 watched"):
        await sandbox.files.watch("/dev/shm/w", recursive=True)


async def test_directories_go_both_ways(sandbox: AsyncSandbox, tmp_path: Path) -> None:
    top = tmp_path / "top"
    (top / "a/empty").mkdir(parents=True)
    (top / "a/big").write_bytes(os.urandom(3 * MIB))
    (top / "a/tool").write_text("#!/bin/sh\necho ran\n")
    (top / "a/tool").chmod(0o755)
    (top / "hard").hardlink_to(top / "a/big")
    (top / "link").symlink_to("/nowhere/at/all")
    Path(os.fsdecode(os.fsencode(top) + b"/\xff")).write_text("odd")
    os.utime(top / "a/tool", (1_234_567_890, 1_234_567_890))
    await sandbox.files.upload(top, "/srv/copy", owner="user")
    assert await output(sandbox, "cd /srv/copy && a/tool && stat -c '%Y %U' a/tool && ls | wc -l") == (
        "ran\n1234567890 user\n4\n"
    )
    await sandbox.files.download("/srv/copy", tmp_path / "back")

    def described(folder: Path) -> dict[bytes, object]:
        return {
            os.fsencode(path.relative_to(folder)): (
                path.readlink()
                if path.is_symlink()
                else (path.stat().st_mode, path.is_file() and path.read_bytes())
            )
            for path in folder.rglob("*")
        }

    assert described(tmp_path / "back") == described(top)
    with pytest.raises(NotFoundError):
        await sandbox.files.download("/srv/none", tmp_path / "none")
    with pytest.raises(InvalidRequestError):
        await sandbox.files.upload(top, "/srv/copy/a/big")


async def test_changes_are_reported_until_the_pause(sandbox: AsyncSandbox) -> None:
    await sandbox.files.make_dir("/srv/w/below")
    async with asyncio.timeout(DEADLINE_S):
        watch = await sandbox.files.watch("/srv/w", recursive=True)
        await output(sandbox, "cd /srv/w; echo x > f; mkdir new; echo y > new/g; mv f below/h; rm new/g")
        seen = [(await anext(watch)) for _ in range(3)]
        assert [(event.type, event.path) for event in seen[:2]] == [
            ("create", "/srv/w/f"),
            ("write", "/srv/w/f"),
        ]
        while (event := await anext(watch)).type != "remove":
            seen.append(event)
        told = {(event.type, event.name) for event in seen}
        assert {("create", "new"), ("create", "new/g"), ("rename", "f"), ("create", "below/h")} <= told
        # More than can wait: nothing is lost without a word.
        flood = await sandbox.files.watch("/srv/w")
        await output(sandbox, "cd /srv/w; for n in $(seq 10000); do : > n; done")
        overflows = 0
        await sandbox.files.write("/srv/w/last", "x")
        while (event := await anext(flood)).name != "last":
            overflows += event.type == "overflow"
        await flood.close()
        await sandbox.pause()
        with pytest.raises(InvalidStateError):
            await last_words(watch)
        await sandbox.resume()


async def test_a_watch_does_not_keep_a_sandbox_awake(platform: Platform) -> None:
    sandbox = await AsyncSandbox.create(
        memory_mb=256, timeout_sec=2, api_key=platform.key, base_url=platform.base_url
    )
    async with asyncio.timeout(DEADLINE_S):
        watch = await sandbox.files.watch("/tmp")
        with pytest.raises(InvalidStateError, match="paused"):
            await anext(watch)
        while (await sandbox.info()).status != "paused":
            await asyncio.sleep(0.1)
    await sandbox.kill()


async def test_removing_a_directory_ends_its_watch(sandbox: AsyncSandbox) -> None:
    async with asyncio.timeout(DEADLINE_S):
        await sandbox.files.make_dir("/srv/gone")
        watch = await sandbox.files.watch("/srv/gone")
        await sandbox.files.remove("/srv/gone")
        with pytest.raises(NotFoundError, match="removed"):
            await last_words(watch)


async def test_git_works_in_a_guest(sandbox: AsyncSandbox) -> None:
    await sandbox.git.init("/srv/repo")
    await sandbox.files.write("/srv/repo/file", "x")
    await sandbox.git.add("/srv/repo")
    commit = await sandbox.git.commit("/srv/repo", "first", author_name="Ada", author_email="ada@example.com")
    await sandbox.git.clone("/srv/repo", "/srv/clone")
    assert (await output(sandbox, "git -C /srv/clone rev-parse HEAD")).strip() == commit
    assert (await sandbox.git.status("/srv/clone")).upstream == "origin/main"
