"""Templates on three hosts with an S3 server: build, create, another version, rollback, deletion. Costs about 60 s.

docs/design/{builds,templates,store}.md. The hosts fetch from the S3 server by URLs that the control plane signs; all objects are encrypted.
"""

from __future__ import annotations

import asyncio
import os
import secrets
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
import pytest_asyncio
from obstore.store import S3Store

from tests.docs_examples import Example, examples, section
from tests.fleet.kit import Fleet, Host, joined_fleet, until
from tests.s3_server import BUCKET, S3Server, s3_server
from wrenn.control.db.embedded import ensure_running, stop
from wrenn.control.db.migrate import migrate

pytestmark = pytest.mark.asyncio(loop_scope="module")

MOVES = [example for example in examples() if example.page == "docs/howto/move-sandboxes.md"]
STORE_ADDRESS = "10.77.0.1"
"""Of loopback: each host has a route to it."""


@pytest.fixture(scope="module")
def store(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    del folder  # skips without root
    address = ["ip", "address", "replace", f"{STORE_ADDRESS}/32", "dev", "lo"]
    subprocess.run(address, check=True, timeout=10)
    try:
        with s3_server(tmp_path_factory.mktemp("s3"), STORE_ADDRESS) as server:
            yield server
    finally:
        subprocess.run(["delete" if each == "replace" else each for each in address], check=True, timeout=10)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def fleet(folder: Path, store: S3Server) -> AsyncIterator[Fleet]:
    own = folder / "images"
    own.mkdir()
    own.chmod(0o711)
    url = await ensure_running(own)
    try:
        await migrate(url)
        key = own / "store.key"
        key.touch(mode=0o600)
        key.write_text(f"{secrets.token_hex(32)}\n")
        async with joined_fleet(
            own,
            url,
            settings={**store.environment, "WRENN_STORE_KEY": str(key), "WRENN_UPLOAD_PAUSED": "always"},
        ) as fleet:
            yield fleet
    finally:
        await stop(own)


async def built(fleet: Fleet, content: str, *, tag: str) -> None:
    """Build a version of `app` from a Dockerfile."""
    body = {
        "name": "app",
        "tag": tag,
        "dockerfile": f"FROM template://minimal\nRUN echo {content} >/root/version\n",
    }
    async with fleet.api() as api:
        answer = await api.post("/v1/builds", json=body)
        assert answer.status_code == 201, answer.text
        path = f"/v1/builds/{answer.json()['id']}"

        async def ended() -> object:
            return (await api.get(path)).json()["status"] not in ("pending", "running")

        await until(ended, deadline_s=90)
        build = (await api.get(path)).json()
        assert build["status"] == "success", build["error"]


async def content_on_each_host(fleet: Fleet, template: str) -> dict[int, str]:
    """Create sandboxes until there is one on each host; what the template has, by the host's number. They are removed."""
    found: dict[int, str] = {}
    async with fleet.api() as api:
        for _ in range(4 * len(fleet.hosts)):
            sandbox_id = await fleet.create(template=template)
            body = {"cmd": "cat", "args": ["/root/version"]}
            answer = await api.post(f"/v1/sandboxes/{sandbox_id}/exec", json=body)
            found[fleet.host_of(sandbox_id).number] = answer.json()["stdout"].strip()
            if len(found) == len(fleet.hosts):
                break
    await fleet.remove_sandboxes()
    return found


def images_of(host: Host) -> set[str]:
    folder = host.data_dir / "images"
    return {path.name for path in folder.iterdir()} if folder.is_dir() else set()


def objects_of(store: S3Server) -> list[str]:
    made = S3Store(
        BUCKET,
        endpoint=store.environment["AWS_ENDPOINT_URL"],
        access_key_id=store.environment["AWS_ACCESS_KEY_ID"],
        secret_access_key=store.secret,
        region=store.environment["AWS_REGION"],
        client_options={"allow_http": True},
    )
    return [found["path"] for page in made.list() for found in page]  # pyright: ignore[reportUnknownMemberType] - pyarrow is not there


async def test_a_template_is_built_once_used_everywhere_and_removed_everywhere(
    fleet: Fleet, store: S3Server
) -> None:
    await built(fleet, "one", tag="v1")
    assert any("/chunks-" in key for key in objects_of(store)), "they are encrypted"
    assert await content_on_each_host(fleet, "app") == {1: "one", 2: "one", 3: "one"}
    assert [len(images_of(host)) for host in fleet.hosts] == [1, 1, 1]

    await built(fleet, "two", tag="v2")
    assert await content_on_each_host(fleet, "app") == {1: "two", 2: "two", 3: "two"}
    assert await content_on_each_host(fleet, "app:v1") == {1: "one", 2: "one", 3: "one"}

    # Back to the first version.
    async with fleet.api() as api:
        assert (await api.put("/v1/templates/app:v1/tags/latest")).status_code == 200
    assert await content_on_each_host(fleet, "app") == {1: "one", 2: "one", 3: "one"}

    offline = fleet.hosts[2]
    await offline.end(kill=True)
    await fleet.wait_status(offline, "unreachable")
    async with fleet.api() as api:
        assert (await api.delete("/v1/templates/app")).status_code == 204
        assert (await api.get("/v1/templates/app")).status_code == 404

    async def removed_where_possible() -> object:
        return not any(images_of(host) for host in fleet.hosts[:2])

    await until(removed_where_possible)
    # It holds up nothing: the store is emptied meanwhile, and it removes its own when it is back.
    assert len(images_of(offline)) == 2
    offline.start()

    async def nothing_left() -> object:
        return not any(images_of(host) for host in fleet.hosts) and not objects_of(store)

    await until(nothing_left)
    await fleet.assert_equal_truth()
    await fleet.assert_nothing_left()


async def test_a_paused_sandbox_is_moved_to_each_other_host(fleet: Fleet) -> None:
    """With its files; that its memory comes along is shown with virtual machines (tests/vm/test_moves.py)."""
    sandbox_id = await fleet.create()
    path = f"/v1/sandboxes/{sandbox_id}"
    write = {"cmd": "sh", "args": ["-c", "head -c 3000000 /dev/urandom >/root/data; sha256sum /root/data"]}
    read = {"cmd": "sha256sum", "args": ["/root/data"]}
    async with fleet.api() as api:
        digest = (await api.post(f"{path}/exec", json=write)).json()["stdout"]
        visited = {fleet.host_of(sandbox_id).number}
        for host in fleet.hosts:
            if host.number in visited:
                continue
            moved = await fleet.call(
                "POST", f"/v1/sandboxes/{sandbox_id}/move", {"pause": True, "host_id": host.host_id}
            )
            assert moved["status"] == "running"
            await until(lambda host=host: _has_only_copy(fleet, host, sandbox_id))
            assert (await api.post(f"{path}/exec", json=read)).json()["stdout"] == digest
            visited.add(host.number)
        assert visited == {1, 2, 3}
    await fleet.remove_sandboxes()
    await fleet.assert_equal_truth()
    await fleet.assert_nothing_left()


@pytest.mark.parametrize("example", MOVES, ids=lambda example: example.language)
async def test_the_guide_to_moves_is_run_as_written(fleet: Fleet, example: Example, tmp_path: Path) -> None:
    sandbox_id = await fleet.create()
    before = fleet.host_of(sandbox_id)
    await _run(fleet, example, sandbox_id, tmp_path)
    assert (await fleet.sandboxes())[sandbox_id] == "running"
    others = [host for host in fleet.hosts if host is not before]
    await until(lambda: _is_on_one_of(others, sandbox_id))
    await fleet.remove_sandboxes()
    await fleet.assert_equal_truth()


@pytest.mark.parametrize(
    "example",
    section("docs/howto/move-sandboxes.md", "When a host is lost"),
    ids=lambda example: example.language,
)
async def test_what_the_guide_says_of_a_lost_host_is_run_as_written(
    fleet: Fleet, example: Example, tmp_path: Path
) -> None:
    sandbox_id = await fleet.create()
    path = f"/v1/sandboxes/{sandbox_id}"
    async with fleet.api() as api:
        body = {"cmd": "sh", "args": ["-c", "echo kept >/root/kept"]}
        assert (await api.post(f"{path}/exec", json=body)).json()["exit_code"] == 0
        assert (await api.post(f"{path}/pause")).status_code == 200

        async def stored() -> object:
            return (await api.get(path)).json().get("stored_at")

        await until(stored)
        lost = fleet.host_of(sandbox_id)
        await lost.end(kill=True)
        await fleet.wait_status(lost, "unreachable")
        await _run(fleet, example, sandbox_id, tmp_path)
        read = {"cmd": "cat", "args": ["/root/kept"]}
        assert (await api.post(f"{path}/exec", json=read)).json()["stdout"] == "kept\n"
    others = [host for host in fleet.hosts if host is not lost]
    assert await _is_on_one_of(others, sandbox_id)
    lost.start()
    await until(lambda: _has_none_of(lost, sandbox_id))
    await fleet.remove_sandboxes()
    await fleet.assert_equal_truth()


async def _run(fleet: Fleet, example: Example, sandbox_id: str, folder: Path) -> None:
    """Run an example about this sandbox."""
    script = folder / "example"
    script.write_text(example.program.replace("cl-…", sandbox_id))
    interpreter = ["bash", "-euo", "pipefail"] if example.language == "sh" else [sys.executable]
    process = await asyncio.create_subprocess_exec(
        *interpreter,
        str(script),
        env={
            **os.environ,
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
            "HOME": str(folder),
            # A replica itself: the certificate of the proxy is one of this test.
            "WRENN_BASE_URL": f"http://{fleet.replica_environments['replica-1']['WRENN_LISTEN']}",
            "WRENN_API_KEY": fleet.key,
        },
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    async with asyncio.timeout(60):
        output, _ = await process.communicate()
    assert process.returncode == 0, output.decode()


async def _has_none_of(host: Host, sandbox_id: str) -> object:
    return sandbox_id not in host.sandbox_ids()


async def _is_on_one_of(hosts: list[Host], sandbox_id: str) -> object:
    return [host.number for host in hosts if sandbox_id in host.sandbox_ids()]


async def _has_only_copy(fleet: Fleet, host: Host, sandbox_id: str) -> object:
    return [each.number for each in fleet.hosts if sandbox_id in each.sandbox_ids()] == [host.number]
