"""Links for downloads: they work once, for who still has access, and what they send is stored and never shown."""

from __future__ import annotations

import asyncio
import hashlib
import socket
import tarfile
from io import BytesIO
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import httpx2
import pytest
import pytest_asyncio

from wrenn.base.units import KIB, MIB

from .conftest import Platform, client, refused, run_sql
from .people import People

pytestmark = pytest.mark.asyncio(loop_scope="module")

MORE_THAN_ALL_BUFFERS_B = 24 * MIB


@pytest_asyncio.fixture(loop_scope="module")
async def platform(people: People) -> Platform:
    """The module's."""
    return people.platform


@pytest_asyncio.fixture(loop_scope="module")
async def path(platform: Platform) -> str:
    return await platform.create()


async def write(platform: Platform, path: str, name: str, content: bytes) -> None:
    answer = await platform.api.post(f"{path}/files/write", data={"path": name}, files={"file": content})
    assert answer.status_code == 204, answer.text


async def link(platform: Platform, path: str, name: str, **body: Any) -> str:
    """The path of a link to this file."""
    answer = await platform.api.post(f"{path}/files/download-link", json={"path": name, **body})
    assert answer.status_code == 201, answer.text
    assert answer.headers["cache-control"] == "no-store"
    assert answer.json()["url"].startswith(f"{platform.url}/v1/downloads/wrd_")
    return urlsplit(str(answer.json()["url"])).path


async def get(platform: Platform, where: str, **headers: str) -> httpx2.Response:
    """As a browser opens it: without a credential."""
    async with client(platform.url, None) as browser:
        return await browser.get(where, headers=headers)


async def test_a_file_is_downloaded_once_and_cannot_be_a_page(platform: Platform, path: str):
    content = b"<!doctype html><script>alert(1)</script>" * 10_000
    await write(platform, path, "/tmp/page.html", content)
    where = await link(platform, path, "/tmp/page.html")
    # A look at the head uses nothing up.
    async with client(platform.url, None) as browser:
        assert (await browser.head(where)).status_code == 405
    answer = await get(platform, where, Accept="text/html")
    assert answer.content == content
    assert answer.headers["content-type"] == "application/octet-stream"
    assert answer.headers["content-length"] == str(len(content))
    assert (
        answer.headers["content-disposition"]
        == "attachment; filename=\"page.html\"; filename*=UTF-8''page.html"
    )
    assert answer.headers["content-security-policy"] == "sandbox; default-src 'none'"
    assert answer.headers["cache-control"] == "no-store"
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert answer.headers["referrer-policy"] == "no-referrer"
    refused(await get(platform, where), 404, "not_found")


async def test_of_many_who_open_a_link_at_once_one_gets_the_file(people: People, path: str):
    await write(people.platform, path, "/tmp/once", b"x")
    where = await link(people.platform, path, "/tmp/once")
    replicas = (people.platform, people.second)
    answers = await asyncio.gather(*(get(replicas[n % 2], where) for n in range(8)))
    assert sorted(answer.status_code for answer in answers) == [200, *[404] * 7]


@pytest.mark.parametrize(
    "name",
    ['a "b"; filename=c.exe', "ä ö\u202egpj.exe", "new\nline: x", "semi;colon\\", "%41", "..", "x" * 250],
)
async def test_names_that_a_program_chose_stay_names(platform: Platform, path: str, name: str):
    file = f"/tmp/{name}" if name != ".." else "/tmp/dots/..."
    await write(platform, path, file, b"x")
    answer = await get(platform, await link(platform, path, file))
    said = answer.headers["content-disposition"]
    assert answer.content == b"x"
    assert said.isascii()
    assert said.isprintable()
    assert said.count('"') == 2
    shown = unquote(said.rpartition("UTF-8''")[2])
    assert shown == file.rpartition("/")[2].replace("\n", "_").replace("\u202e", "_")


async def test_a_download_that_nobody_reads_ends(
    platform: Platform, path: str, monkeypatch: pytest.MonkeyPatch
):
    """It would hold a connection to the sandbox's host for ever, and one of the control plane."""
    monkeypatch.setattr("wrenn.control.http.connection._UNREAD_TIMEOUT_S", 0.5)
    await write(platform, path, "/tmp/large", bytes(MORE_THAN_ALL_BUFFERS_B))
    where = await link(platform, path, "/tmp/large")
    server = urlsplit(platform.url)
    with socket.socket() as reader:
        reader.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 64 * KIB)
        reader.connect((server.hostname, server.port))
        port = reader.getsockname()[1]
        reader.sendall(f"GET {where} HTTP/1.1\r\nHost: {server.netloc}\r\n\r\n".encode())
        assert await asyncio.to_thread(reader.recv, 12) == b"HTTP/1.1 200"
        async with asyncio.timeout(30):
            while has_connection_from(port):
                await asyncio.sleep(0.1)
    # Who reads gets all of it.
    monkeypatch.setattr("wrenn.control.http.connection._UNREAD_TIMEOUT_S", 300.0)
    where = await link(platform, path, "/tmp/large")
    assert len((await get(platform, where)).content) == MORE_THAN_ALL_BUFFERS_B


def has_connection_from(port: int) -> bool:
    """Whether the other end of a connection over IPv4 has this port, as the kernel's list of established ones says."""
    fields = [line.split() for line in Path("/proc/self/net/tcp").read_text().splitlines()[1:]]
    return any(int(field[2].rpartition(":")[2], 16) == port and field[3] == "01" for field in fields)


async def test_a_directory_is_downloaded_as_an_archive(platform: Platform, path: str):
    await write(platform, path, "/tmp/tree/a/file", b"content")
    answer = await get(platform, await link(platform, path, "/tmp/tree", archive=True))
    assert 'filename="tree.tar"' in answer.headers["content-disposition"]
    with tarfile.open(fileobj=BytesIO(answer.content)) as archive:
        assert "a/file" in [name.removeprefix("./") for name in archive.getnames()]


async def test_what_cannot_be_downloaded_gets_no_link(platform: Platform, path: str):
    async def asked(**body: Any) -> httpx2.Response:
        return await platform.api.post(f"{path}/files/download-link", json=body)

    refused(await asked(path="/tmp/none"), 404, "not_found")
    assert "directory" in refused(await asked(path="/tmp"), 400, "invalid_request")
    await write(platform, path, "/tmp/plain", b"x")
    assert "directory" in refused(await asked(path="/tmp/plain", archive=True), 400, "invalid_request")
    for body in ({}, {"path": "relative"}, {"path": "/a\0"}, {"path": "/tmp/plain", "other": 1}):
        refused(await asked(**body), 400, "invalid_request")
    for token in ("none", "wrd_" + "0" * 64, "wrd_" + "0" * 5000):
        refused(await get(platform, f"/v1/downloads/{token}"), 404, "not_found")


async def test_a_link_expires_and_only_its_hash_is_stored(people: People, path: str):
    await write(people.platform, path, "/tmp/late", b"x")
    where = await link(people.platform, path, "/tmp/late")
    token_hash = hashlib.sha256(where.rpartition("/")[2].encode()).hexdigest()
    # Fails unless there is one row.
    await run_sql(
        people.database_url,
        f"SELECT 1 / (SELECT count(*) FROM download_links WHERE token_hash = '{token_hash}')",
        f"UPDATE download_links SET expires_at = now() WHERE token_hash = '{token_hash}'",
    )
    refused(await get(people.platform, where), 404, "not_found")


async def test_who_lost_access_meanwhile_downloads_nothing(people: People):
    ada = await people.sign_up()
    made = await ada.post("/v1/sandboxes", {})
    path = f"/v1/sandboxes/{made.json()['id']}"
    written = await ada.post(
        f"{path}/exec", {"cmd": "sh", "args": ["-c", "echo secret > /tmp/secret-of-ada"]}
    )
    assert written.status_code == 200, written.text

    async def make(headers: dict[str, str]) -> str:
        async with client(people.url, None) as api:
            answer = await api.post(
                f"{path}/files/download-link", json={"path": "/tmp/secret-of-ada"}, headers=headers
            )
        assert answer.status_code == 201, answer.text
        return urlsplit(str(answer.json()["url"])).path

    key = await ada.make_key()
    of_user, of_key = (
        await make({"Authorization": f"Bearer {ada.token}"}),
        await make({"X-API-Key": key["key"]}),
    )
    lasting = await make({"X-API-Key": key["key"]})
    assert (await get(people.second, lasting)).content == b"secret\n"
    assert (await ada.delete(f"/v1/api-keys/{key['id']}")).status_code == 204
    refused(await get(people.platform, of_key), 401, "unauthorized")
    assert (await ada.post("/v1/auth/logout")).status_code == 204
    refused(await get(people.platform, of_user), 401, "unauthorized")


async def test_keys_that_may_only_look_and_other_teams_make_no_links(people: People, path: str):
    eve = await people.sign_up()
    refused(await eve.post(f"{path}/files/download-link", {"path": "/etc/passwd"}), 404, "not_found")
    looking = await eve.make_key(scope="read")
    made = await eve.post("/v1/sandboxes", {})
    async with client(people.url, None) as api:
        answer = await api.post(
            f"/v1/sandboxes/{made.json()['id']}/files/download-link",
            json={"path": "/etc/passwd"},
            headers={"X-API-Key": looking["key"]},
        )
    refused(answer, 403, "forbidden")
