"""Parts of files, options of a write, odd names and kinds, whole directories, and changes as they happen."""

from __future__ import annotations

import asyncio
import io
import json
import os
import socket
import stat
import sys
import tarfile
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx2
import pytest
import pytest_asyncio

from wrenn.base.file_name_encoding import name_to_text
from wrenn.base.units import MIB
from wrenn.linux.container import users

from .conftest import DEADLINE_S, Platform, client, refused
from .test_control_files import END, FORM, part

CONTENT = b"0123456789"

_, USER = users()
pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest.fixture
def platform(team_platform: Platform) -> Platform:
    """The module's, with a team of the test's own."""
    return team_platform


@pytest_asyncio.fixture(loop_scope="module")
async def path(platform: Platform) -> str:
    return await platform.create()


@pytest.fixture
def root(platform: Platform, path: str) -> Path:
    """The sandbox's `/root` on this machine."""
    return platform.host.root_of(path.rpartition("/")[2]) / "root"


async def test_a_part_of_a_file_is_read(platform: Platform, path: str, root: Path):
    (root / "f").write_bytes(CONTENT)
    for verb in ("read", "stream/read"):
        url, body = f"{path}/files/{verb}", {"path": "/root/f"}
        whole = await platform.api.post(url, json=body)
        assert (whole.status_code, whole.headers["accept-ranges"]) == (200, "bytes")
        part_of = await platform.api.post(url, json=body, headers={"Range": "bytes=2-4"})
        assert (part_of.status_code, part_of.content) == (206, b"234")
        assert part_of.headers["content-range"] == "bytes 2-4/10"
        assert part_of.headers["content-length"] == "3"
        outside = await platform.api.post(url, json=body, headers={"Range": "bytes=10-"})
        refused(outside, 416, "invalid_request")
        assert outside.headers["content-range"] == "bytes */10"
        odd = await platform.api.post(url, json=body, headers={"Range": "lines=1-2", "If-Range": "~" * 300})
        assert (odd.status_code, odd.content) == (200, CONTENT)


async def test_a_part_of_a_file_that_changed_is_the_whole_file(platform: Platform, path: str, root: Path):
    (root / "f").write_bytes(CONTENT)
    url, body = f"{path}/files/read", {"path": "/root/f"}
    tag = (await platform.api.post(url, json=body)).headers["etag"]
    rest = {"Range": "bytes=4-", "If-Range": tag}
    assert (await platform.api.post(url, json=body, headers=rest)).content == CONTENT[4:]
    with (root / "f").open("ab") as file:
        file.write(b"more")
    changed = await platform.api.post(url, json=body, headers=rest)
    assert (changed.status_code, changed.content) == (200, CONTENT + b"more")


async def test_mode_owner_and_atomic_reach_the_guest(platform: Platform, path: str, root: Path):
    (root / "f").write_text("before")
    options = {"path": b"/root/f", "mode": b"0750", "owner": b"user:user", "atomic": b"true"}
    body = b"".join(part(name, value) for name, value in options.items()) + part("file", b"x") + END
    with (root / "f").open() as former:
        answer = await platform.api.post(f"{path}/files/write", content=body, headers=FORM)
        assert answer.status_code == 204, answer.text
        assert former.read() == "before", "it is replaced in one step"
    found = (root / "f").stat()
    assert stat.S_IMODE(found.st_mode) == 0o750
    assert (found.st_uid, found.st_gid) == (USER.uid, USER.uid)
    assert (root / "f").read_bytes() == b"x"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("mode", b"888"),
        ("mode", b""),
        ("mode", b"u+x"),
        ("owner", b"a b"),
        ("owner", b"a:b:c"),
        ("atomic", b"1"),
    ],
)
async def test_a_wrong_option_is_refused_and_changes_nothing(
    platform: Platform, path: str, root: Path, name: str, value: bytes
):
    body = part("path", b"/root/f") + part(name, value) + part("file", b"x") + END
    answer = await platform.api.post(f"{path}/files/write", content=body, headers=FORM)
    assert name in refused(answer, 400, "invalid_request")
    assert list(root.iterdir()) == []


async def test_names_of_any_bytes_go_all_ways(platform: Platform, path: str, root: Path):
    longest = b"\xff" * 255
    for name in (b"new\nline", b"\xff\xfe", longest):
        text = f"/root/{name_to_text(name)}"
        body = part("path", text.encode()) + part("file", CONTENT) + END
        answer = await platform.api.post(f"{path}/files/write", content=body, headers=FORM)
        assert answer.status_code == 204, answer.text
        assert os.path.exists(os.path.join(os.fsencode(root), name))  # noqa: PTH110, PTH118 - bytes
        (entry,) = (await platform.api.post(f"{path}/files/list", json={"path": "/root"})).json()["entries"]
        assert entry["path"] == text
        for verb in ("stat", "read"):
            answer = await platform.api.post(f"{path}/files/{verb}", json={"path": entry["path"]})
            assert answer.status_code == 200, answer.text
        assert answer.content == CONTENT
        moved = {"source": entry["path"], "destination": "/root/plain"}
        assert (await platform.api.post(f"{path}/files/move", json=moved)).status_code == 200
        assert (
            await platform.api.post(f"{path}/files/remove", json={"path": "/root/plain"})
        ).status_code == 204
    answer = await platform.api.post(
        f"{path}/files/stat", json={"path": f"/root/{name_to_text(longest + b'x')}"}
    )
    assert "255" in refused(answer, 400, "invalid_request")


async def test_every_kind_of_change_is_reported(platform: Platform, path: str, root: Path):
    (root / "file").touch()
    (root / "folder").mkdir()
    (root / "link").symlink_to("file")
    (root / "broken").symlink_to("nowhere")
    os.mkfifo(root / "fifo")
    with socket.socket(socket.AF_UNIX) as listener:
        folder = os.open(root, os.O_RDONLY)
        listener.bind(f"/proc/self/fd/{folder}/socket")
        os.close(folder)
    entries = (await platform.api.post(f"{path}/files/list", json={"path": "/root"})).json()["entries"]
    assert {entry["name"]: (entry["type"], entry["kind"]) for entry in entries} == {
        "file": ("file", "file"),
        "folder": ("directory", "directory"),
        "link": ("symlink", "symlink"),
        "broken": ("symlink", "symlink"),
        "fifo": ("file", "fifo"),
        "socket": ("file", "socket"),
    }
    assert [entry["name"] for entry in entries if entry.get("broken")] == ["broken"]


def archive(**files: bytes) -> bytes:
    target = io.BytesIO()
    with tarfile.open(fileobj=target, mode="w") as tar:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return target.getvalue()


async def test_directories_go_both_ways_as_archives(platform: Platform, path: str, root: Path):
    big = os.urandom(2 * MIB)
    write, read = f"{path}/files/tar/write", f"{path}/files/tar/read"
    answer = await platform.api.post(write, params={"path": "/root/new"}, content=archive(a=b"1", big=big))
    assert (answer.status_code, answer.content) == (204, b"")
    assert (root / "new/big").read_bytes() == big
    answer = await platform.api.post(read, json={"path": "/root/new"})
    assert (answer.status_code, answer.headers["content-type"]) == (200, "application/x-tar")
    with tarfile.open(fileobj=io.BytesIO(answer.content)) as tar:
        assert set(tar.getnames()) == {".", "a", "big"}


async def test_wrong_archives_and_places_are_refused(platform: Platform, path: str, root: Path):
    write, read = f"{path}/files/tar/write", f"{path}/files/tar/read"
    refused(await platform.api.post(read, json={"path": "/none"}), 404, "not_found")
    refused(await platform.api.post(write, params={"path": "/x"}, content=b"none"), 400, "invalid_request")
    for query in ({}, {"path": "relative"}, {"path": "/x", "user": "A B"}, {"path": "/x", "owner": "a b"}):
        answer = await platform.api.post(write, params=query, content=archive())
        refused(answer, 400, "invalid_request")


async def test_files_of_another_team_are_not_there(platform: Platform, path: str):
    stranger = await platform.other_team()
    async with client(platform.url, stranger) as api:
        refused(await api.post(f"{path}/files/tar/read", json={"path": "/root"}), 404, "not_found")
        answer = await api.post(f"{path}/files/tar/write", params={"path": "/x"}, content=archive())
        refused(answer, 404, "not_found")
        refused(await api.get(f"{path}/files/watch", params={"path": "/root"}), 404, "not_found")
    async with client(platform.url, None) as api:
        refused(await api.get(f"{path}/files/watch", params={"path": "/root"}), 401, "unauthorized")


async def events_of(answer: httpx2.Response) -> AsyncIterator[dict[str, Any]]:
    async for line in answer.aiter_lines():
        if line.startswith("data: "):
            yield json.loads(line.removeprefix("data: "))


async def test_changes_are_reported_as_they_happen(platform: Platform, path: str, root: Path):
    query = {"path": "/root", "recursive": "true"}
    async with asyncio.timeout(DEADLINE_S):
        async with platform.api.stream("GET", f"{path}/files/watch", params=query) as answer:
            assert answer.headers["content-type"].startswith("text/event-stream")
            events = events_of(answer)
            assert await anext(events) == {"type": "started"}
            odd = name_to_text(b"a\n\xff")
            os.mkdir(os.path.join(os.fsencode(root), b"a\n\xff"))  # noqa: PTH102, PTH118 - bytes
            told = {"type": "event", "event": "create", "path": f"/root/{odd}", "name": odd}
            assert await anext(events) == told
            root.chmod(0o711)
            assert await anext(events) == {"type": "event", "event": "chmod", "path": "/root", "name": ""}
            assert (await platform.api.post(f"{path}/pause")).status_code == 200
            last = await anext(events)
            assert (last["type"], last["code"]) == ("error", "invalid_state")
            assert "paused" in last["message"]
            assert [event async for event in events] == []


async def test_changes_that_come_too_fast_are_reported_as_overflow(platform: Platform, path: str):
    platform.host.switches.plant["files"] = json.dumps({"kind": "overflow", "name": ""}).encode() + b"\n"
    async with asyncio.timeout(DEADLINE_S):
        async with platform.api.stream("GET", f"{path}/files/watch", params={"path": "/root"}) as answer:
            events = events_of(answer)
            await anext(events)
            assert (await anext(events))["event"] == "overflow"


async def test_silence_is_reported_and_a_client_that_disconnects_ends_the_watch(
    platform: Platform, path: str, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(sys.modules["wrenn.guest.watch"], "KEEPALIVE_S", 1)
    async with asyncio.timeout(DEADLINE_S):
        async with platform.api.stream("GET", f"{path}/files/watch", params={"path": "/root"}) as answer:
            lines = answer.aiter_lines()
            while not (await anext(lines)).startswith(": silence"):
                pass
            assert platform.host.open_calls["files"] == 1
        while platform.host.open_calls["files"]:
            await asyncio.sleep(0.01)


async def test_a_host_that_breaks_a_watch_off_is_an_error_of_it(platform: Platform, path: str):
    platform.host.switches.plant["files"] = b"n" * MIB
    async with asyncio.timeout(DEADLINE_S):
        async with platform.api.stream("GET", f"{path}/files/watch", params={"path": "/root"}) as answer:
            events = events_of(answer)
            await anext(events)
            assert (await anext(events))["code"] == "agent_error"
            assert [event async for event in events] == []


async def test_what_cannot_be_watched_is_an_ordinary_refusal(platform: Platform, path: str):
    refused(await platform.api.get(f"{path}/files/watch", params={"path": "/none"}), 404, "not_found")
    refused(await platform.api.get(f"{path}/files/watch"), 400, "invalid_request")
    refused(await platform.api.get(f"{path}/files/watch", params={"path": "x"}), 400, "invalid_request")
    await platform.api.post(f"{path}/pause")
    refused(await platform.api.get(f"{path}/files/watch", params={"path": "/root"}), 409, "invalid_state")
