"""Files go in and out unchanged, in bounded memory, and broken forms are told."""

from __future__ import annotations

import hashlib
import os
import socket
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from wrenn.base.units import MIB
from wrenn.testing.agent_host import AgentHost

from .conftest import Platform, client, control_process, environment_of, make_team, refused

BOUNDARY = "b0undary"
FORM = {"Content-Type": f"multipart/form-data; boundary={BOUNDARY}"}


def part(name: str, content: bytes) -> bytes:
    head = f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n'
    return head.encode() + content + b"\r\n"


END = f"--{BOUNDARY}--\r\n".encode()


pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest.fixture
def platform(team_platform: Platform) -> Platform:
    """The module's, with a team of the test's own."""
    return team_platform


@pytest_asyncio.fixture(loop_scope="module")
async def path(platform: Platform) -> str:
    return await platform.create()


async def test_what_is_written_is_read(platform: Platform, path: str, subtests: pytest.Subtests):
    for verb in ["write", "stream/write"]:
        for content in [b"", b"text", b"\r\n--b0undar", bytes(range(256)) * 4096]:
            with subtests.test(f"{verb!r} {content!r}"[:120]):
                body = part("path", b"/new/folder/\xc3\xa9") + part("file", content) + END
                answer = await platform.api.post(f"{path}/files/{verb}", content=body, headers=FORM)
                assert (answer.status_code, answer.content) == (204, b"")
                for read in ("read", "stream/read"):
                    answer = await platform.api.post(f"{path}/files/{read}", json={"path": "/new/folder/é"})
                    assert answer.headers["content-type"] == "application/octet-stream"
                    assert answer.content == content


async def test_a_form_of_the_usual_clients_is_understood(platform: Platform, path: str):
    file = ("name.bin", b"content", "application/x-thing")
    answer = await platform.api.post(f"{path}/files/write", data={"path": "/a"}, files={"file": file})
    assert answer.status_code == 204
    assert (await platform.api.post(f"{path}/files/read", json={"path": "/a"})).content == b"content"


BAD_FORMS: list[tuple[bytes, dict[str, str], str]] = [
    (part("file", b"x") + part("path", b"/a") + END, FORM, "before"),
    (part("file", b"x") + END, FORM, "path"),
    (part("path", b"/a") + END, FORM, "'file'"),
    (END, FORM, "'file'"),
    (b"", FORM, "'file'"),
    (b"no form at all", FORM, "form"),
    (part("path", b"/a"), FORM, "'file'"),
    (part("path", b"/a") + part("file", b"broken off"), FORM, "breaks off"),
    (part("path", b"relative") + part("file", b"x") + END, FORM, "absolute"),
    (part("path", b"/\xff") + part("file", b"x") + END, FORM, "UTF-8"),
    (part("path", b"/a") + part("user", b"x y") + part("file", b"x") + END, FORM, "user"),
    (b"{}", {"Content-Type": "application/json"}, "multipart"),
    (b"{}", {"Content-Type": "multipart/form-data"}, "multipart"),
    (b"{}", {}, "multipart"),
]


async def names_below_root(platform: Platform, path: str) -> list[str]:
    """What is there, without times: folders of the simulated guest are those of the machine, which other tests use too."""
    listed = await platform.api.post(f"{path}/files/list", json={"path": "/"})
    return [entry["name"] for entry in listed.json()["entries"]]


async def test_a_bad_form_is_refused_and_changes_nothing(
    platform: Platform, path: str, subtests: pytest.Subtests
):
    before = await names_below_root(platform, path)
    for verb in ["write", "stream/write"]:
        for body, headers, says in BAD_FORMS:
            with subtests.test(f"{verb!r} {body!r} {headers!r} {says!r}"[:120]):
                answer = await platform.api.post(f"{path}/files/{verb}", content=body, headers=headers)
                assert says in refused(answer, 400, "invalid_request")
                assert await names_below_root(platform, path) == before


async def test_a_path_part_without_end_is_refused(platform: Platform, path: str):
    body = part("path", b"/" + b"a" * 100_000) + part("file", b"x") + END
    refused(await platform.api.post(f"{path}/files/write", content=body, headers=FORM), 413, "too_large")


async def test_a_missing_file_is_not_found_before_any_byte(platform: Platform, path: str):
    moved = {"source": "/none", "destination": "/other"}
    for verb in ("read", "stream/read", "stat", "list", "move"):
        body = moved if verb == "move" else {"path": "/none"}
        refused(await platform.api.post(f"{path}/files/{verb}", json=body), 404, "not_found")
    assert (await platform.api.post(f"{path}/files/remove", json={"path": "/none"})).status_code == 204


async def test_entries_have_the_three_kinds_that_clients_know(platform: Platform, path: str):
    root = platform.host.root_of(path.rpartition("/")[2]) / "root"
    (root / "file").write_text("12345")
    (root / "folder").mkdir()
    (root / "good").symlink_to("folder")
    (root / "broken").symlink_to("nowhere")
    with socket.socket(socket.AF_UNIX) as listener:
        # Through its descriptor, because a socket's path must be short.
        folder = os.open(root, os.O_RDONLY)
        listener.bind(f"/proc/self/fd/{folder}/socket")
        os.close(folder)
    answer = await platform.api.post(f"{path}/files/list", json={"path": "/root", "depth": 0})
    entries = {entry["name"]: entry for entry in answer.json()["entries"]}
    assert {name: entry["type"] for name, entry in entries.items()} == {
        "file": "file", "folder": "directory", "good": "symlink", "broken": "symlink", "socket": "file",
    }  # fmt: skip
    assert entries["broken"]["symlink_target"] == "nowhere"
    assert "symlink_target" not in entries["file"]
    assert entries["file"]["size"] == 5
    assert entries["file"]["path"] == "/root/file"


async def test_directories_are_made_listed_moved_and_removed(platform: Platform, path: str):
    everything = {"path": "/", "depth": 2}
    before = (await platform.api.post(f"{path}/files/list", json=everything)).json()["entries"]
    made = await platform.api.post(f"{path}/files/mkdir", json={"path": "/a/b"})
    assert made.json()["entry"]["type"] == "directory"
    refused(await platform.api.post(f"{path}/files/mkdir", json={"path": "/a/b"}), 409, "conflict")
    deep = await platform.api.post(f"{path}/files/list", json=everything)
    paths, known = ({entry["path"] for entry in entries} for entries in (deep.json()["entries"], before))
    assert "/root" in known
    assert paths - known == {"/a", "/a/b"}
    moved = await platform.api.post(f"{path}/files/move", json={"source": "/a", "destination": "/c"})
    assert moved.json()["entry"]["path"] == "/c"
    assert (await platform.api.post(f"{path}/files/stat", json={"path": "/c/b"})).status_code == 200
    assert (await platform.api.post(f"{path}/files/remove", json={"path": "/c"})).status_code == 204
    refused(await platform.api.post(f"{path}/files/stat", json={"path": "/c"}), 404, "not_found")


async def upload(size_b: int, chunk: bytes = b"x" * MIB) -> AsyncIterator[bytes]:
    yield part("path", b"/big")[:]
    yield part("file", b"")[:-2]
    for _ in range(size_b // len(chunk)):
        yield chunk
    yield b"\r\n" + END


async def test_a_file_above_the_limit_is_refused_and_replaces_nothing(platform: Platform, path: str):
    await platform.api.post(
        f"{path}/files/write", content=part("path", b"/big") + part("file", b"old") + END, headers=FORM
    )
    answer = await platform.api.post(f"{path}/files/write", content=upload(101 * MIB), headers=FORM)
    assert "stream/write" in refused(answer, 413, "too_large")
    assert (await platform.api.post(f"{path}/files/read", json={"path": "/big"})).content == b"old"


@pytest.mark.asyncio(loop_scope="function")
async def test_100_mb_pass_both_ways_in_bounded_memory(
    data_dir: Path, database_url: str, host: AgentHost, unused_tcp_port: int
):
    key = await make_team(database_url, "ada")
    environment = environment_of(data_dir, database_url)
    async with (
        control_process(environment, unused_tcp_port, host) as process,
        client(f"http://127.0.0.1:{unused_tcp_port}", key) as api,
    ):
        path = f"/v1/sandboxes/{(await api.post('/v1/sandboxes', json={})).json()['id']}/files"
        warm = part("path", b"/warm") + part("file", b"x" * MIB) + END
        await api.post(f"{path}/stream/write", content=warm, headers=FORM)
        await api.post(f"{path}/read", json={"path": "/warm"})
        before_kb = peak_kb(process.pid)
        for verb in ("write", "stream/write"):
            answer = await api.post(f"{path}/{verb}", content=upload(99 * MIB), headers=FORM)
            assert answer.status_code == 204, answer.text
        digest = hashlib.sha256()
        async with api.stream("POST", f"{path}/stream/read", json={"path": "/big"}) as answer:
            async for chunk in answer.aiter_bytes():
                digest.update(chunk)
        assert digest.digest() == hashlib.sha256(b"x" * (99 * MIB)).digest()
        assert peak_kb(process.pid) - before_kb < 32 * 1024


def peak_kb(pid: int) -> int:
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0])
