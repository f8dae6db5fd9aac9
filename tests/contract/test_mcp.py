"""`wrenn mcp` as its clients use it: the official client starts it, or calls it over HTTP, on a real platform.

Cost: about 15 s.
"""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx2
import pytest
import pytest_asyncio
from mcp import StdioServerParameters, stdio_client
from mcp.client.client import Client
from mcp.client.streamable_http import streamable_http_client
from sdk_clients import Platform
from typer.testing import CliRunner

from tests.integration import conftest as integration
from wrenn import AsyncSandbox, NetworkPolicy
from wrenn.cli.main import app
from wrenn.testing.server import free_port

WRENN = Path(sys.executable).with_name("wrenn")
TOOLS = {
    "create_sandbox",
    "list_sandboxes",
    "run_command",
    "run_code",
    "start_process",
    "list_files",
    "read_file",
    "write_file",
    "get_port_url",
    "pause_sandbox",
    "fork_sandbox",
    "kill_sandbox",
}


class Caller:
    """Calls tools and returns their results as plain values."""

    def __init__(self, client: Client) -> None:
        self.client = client

    async def __call__(self, tool: str, **arguments: Any) -> Any:
        result = await self.client.call_tool(tool, arguments)
        assert not result.is_error, result.content
        value = result.structured_content
        assert value is not None
        return value["result"] if set(value) == {"result"} else value

    async def failing(self, tool: str, **arguments: Any) -> str:
        """Return the message of a call that must fail."""
        result = await self.client.call_tool(tool, arguments)
        assert result.is_error, result.content
        return str(getattr(result.content[0], "text"))  # noqa: B009 - the content is a union


@asynccontextmanager
async def over_stdio(*options: str) -> AsyncGenerator[Caller]:
    """A client that starts `wrenn mcp`."""
    environment = {name: os.environ[name] for name in ("WRENN_BASE_URL", "WRENN_API_KEY", "PATH")}
    parameters = StdioServerParameters(command=str(WRENN), args=["mcp", *options], env=environment)
    async with Client(stdio_client(parameters)) as client:
        yield Caller(client)


async def policy_of(sandbox_id: str) -> NetworkPolicy:
    sandbox = await AsyncSandbox.connect(sandbox_id)
    try:
        policy = (await sandbox.info()).network
        assert policy is not None
        return policy
    finally:
        await sandbox.close()


@pytest_asyncio.fixture(loop_scope="module")
async def nothing_left(platform: Platform) -> AsyncIterator[None]:
    """Remove the sandboxes that a test leaves behind."""
    yield
    for info in await AsyncSandbox.list():
        await (await AsyncSandbox.connect(info.id, resume=False)).kill()


@pytest.mark.asyncio(loop_scope="module")
async def test_a_model_uses_a_sandbox(platform: Platform, nothing_left: None):
    async with over_stdio() as call:
        assert {tool.name for tool in (await call.client.list_tools()).tools} == TOOLS
        box = (await call("create_sandbox", name="analysis"))["id"]
        assert [(item["id"], item["name"]) for item in await call("list_sandboxes")] == [(box, "analysis")]

        output = await call("run_command", sandbox_id=box, command="echo out; echo err >&2; exit 3")
        assert (output["stdout"], output["stderr"], output["exit_code"]) == ("out\n", "err\n", 3)
        output = await call("run_code", sandbox_id=box, code="print(6 * 7)")
        assert output["stdout"] == "42\n"
        assert (await call("run_command", sandbox_id=box, command="ls /tmp"))["stdout"] == "", (
            "the program is removed"
        )

        await call("write_file", sandbox_id=box, path="/root/notes/a.txt", text="grüße\n")
        assert (await call("list_files", sandbox_id=box, path="/root/notes"))["entries"] == [
            {"name": "a.txt", "type": "file", "size": 8}
        ]
        read = await call("read_file", sandbox_id=box, path="/root/notes/a.txt")
        assert read == {"text": "grüße\n", "size": 8, "next_offset": None, "is_exact": True}

        await call("kill_sandbox", sandbox_id=box)
        assert await call("list_sandboxes") == []


@pytest.mark.asyncio(loop_scope="module")
async def test_what_is_long_is_cut_and_said_to_be(platform: Platform, nothing_left: None):
    async with over_stdio("--max-output", "1024", "--max-time", "2", "--no-internet") as call:
        assert "allow_internet=false" in await call.failing("create_sandbox")
        box = (await call("create_sandbox", allow_internet=False))["id"]
        assert not (await policy_of(box)).allow_internet
        output = await call("run_command", sandbox_id=box, command="seq 10000")
        assert output["truncated"]
        assert output["stdout"].endswith("9999\n10000\n")
        assert len(output["stdout"]) == 1024

        await call("run_command", sandbox_id=box, command="seq 1000 > /root/seq")
        text, offset = "", 0
        while offset is not None:
            part = await call("read_file", sandbox_id=box, path="/root/seq", offset=offset)
            text, offset = text + part["text"], part["next_offset"]
        assert text == "".join(f"{number}\n" for number in range(1, 1001))

        # Characters of two, three and four bytes at all places of the end of a part; and no text.
        whole = "x" + "äß│🙂" * 500
        await call("write_file", sandbox_id=box, path="/root/text", text=whole)
        text, offset = "", 0
        while offset is not None:
            part = await call("read_file", sandbox_id=box, path="/root/text", offset=offset)
            assert part["is_exact"]
            text, offset = text + part["text"], part["next_offset"]
        assert text == whole
        await call("run_command", sandbox_id=box, command=r"printf '\211PNG\r\n' > /root/picture")
        part = await call("read_file", sandbox_id=box, path="/root/picture")
        assert (part["is_exact"], part["next_offset"]) == (False, None)

        output = await call("run_command", sandbox_id=box, command="echo begun; sleep 60", timeout_sec=60)
        assert output["timed_out"], "the limit of the session, not of the call"
        assert output["stdout"] == "begun\n"


@pytest.mark.asyncio(loop_scope="module")
async def test_failures_say_what_to_do(platform: Platform, nothing_left: None):
    async with over_stdio() as call:
        assert "no template" in (await call.failing("create_sandbox", template="nothing")).lower()
        assert (
            "no sandbox"
            in (await call.failing("run_command", sandbox_id="cl-" + "0" * 25, command="true")).lower()
        )
        box = (await call("create_sandbox"))["id"]
        assert "/root/nothing" in await call.failing("read_file", sandbox_id=box, path="/root/nothing")
        assert "65536" in await call.failing("get_port_url", sandbox_id=box, port=65536)
        assert "language" in await call.failing("run_code", sandbox_id=box, code="", language="cobol")


@pytest.mark.asyncio(loop_scope="module")
async def test_a_session_has_no_more_sandboxes_than_its_limit(platform: Platform, nothing_left: None):
    async with over_stdio("--max-sandboxes", "2") as call:
        # A model may call several tools at once.
        results = await asyncio.gather(*(call.client.call_tool("create_sandbox", {}) for _ in range(4)))
        assert sorted(bool(result.is_error) for result in results) == [False, False, True, True]
        one, _ = await call("list_sandboxes")
        message = await call.failing("fork_sandbox", sandbox_id=one["id"])
        assert "2 sandboxes of at most 2" in message
        await call("kill_sandbox", sandbox_id=one["id"])
        await call("create_sandbox")


@pytest.mark.asyncio(loop_scope="module")
async def test_a_session_sees_only_its_own_sandboxes_and_can_be_continued(
    platform: Platform, nothing_left: None
):
    others = await AsyncSandbox.create()
    async with over_stdio("--session", "work") as call:
        box = (await call("create_sandbox"))["id"]
        await call("write_file", sandbox_id=box, path="/root/a", text="kept")
        await call("pause_sandbox", sandbox_id=box)
        for tool in ("kill_sandbox", "pause_sandbox", "fork_sandbox", "list_files"):
            arguments = {"path": "/"} if tool == "list_files" else {}
            assert "no sandbox" in await call.failing(tool, sandbox_id=others.id, **arguments)
    assert await others.is_running()
    await others.close()
    async with over_stdio() as call:
        assert await call("list_sandboxes") == []
        assert "no sandbox" in await call.failing("kill_sandbox", sandbox_id=box)
    async with over_stdio("--session", "work") as call:
        assert [item["status"] for item in await call("list_sandboxes")] == ["paused"]
        # The next call that needs it resumes it.
        assert (await call("read_file", sandbox_id=box, path="/root/a"))["text"] == "kept"


@pytest.mark.asyncio(loop_scope="module")
async def test_a_port_has_a_url_that_needs_no_key(platform: Platform, nothing_left: None):
    async with over_stdio() as call:
        box = (await call("create_sandbox"))["id"]
        port = free_port()
        process = await call(
            "start_process", sandbox_id=box, command=f"python3 -m http.server {port} --bind 127.0.0.1"
        )
        assert process["pid"] > 0
        found = await call("get_port_url", sandbox_id=box, port=port)
        host = found["url"].split("/")[2]
        assert host.startswith(f"{port}-{box}.")
        base = httpx2.URL(found["url"]).copy_with(host="127.0.0.1")
        async with httpx2.AsyncClient(trust_env=False) as client:
            response = await client.get(base, headers={"Host": host})
            async with asyncio.timeout(30):
                while response.status_code != 200:
                    await asyncio.sleep(0.1)
                    response = await client.get(base, headers={"Host": host})
        assert "Directory listing" in response.text


class Served:
    """`wrenn mcp --http` as a process without any credentials."""

    def __init__(self, url: str) -> None:
        self.url = url

    @asynccontextmanager
    async def client(self, key: str, mode: str = "auto") -> AsyncGenerator[Caller]:
        async with (
            httpx2.AsyncClient(
                headers={"Authorization": f"Bearer {key}"}, timeout=60, trust_env=False
            ) as http,
            Client(streamable_http_client(self.url, http_client=http), mode=mode) as client,
        ):
            yield Caller(client)


@pytest_asyncio.fixture(loop_scope="module")
async def served(platform: Platform, nothing_left: None) -> AsyncIterator[Served]:
    port = free_port()
    environment = {name: value for name, value in os.environ.items() if name != "WRENN_API_KEY"}
    process = await asyncio.create_subprocess_exec(
        WRENN, "mcp", "--http", f"127.0.0.1:{port}", "--max-sandboxes", "1", env=environment
    )
    try:
        async with asyncio.timeout(30):
            while True:
                try:
                    _, writer = await asyncio.open_connection("127.0.0.1", port)
                    break
                except ConnectionRefusedError:
                    await asyncio.sleep(0.1)
            writer.close()
        yield Served(f"http://127.0.0.1:{port}/mcp")
    finally:
        process.terminate()
        await asyncio.wait_for(process.wait(), 20)


@pytest.mark.parametrize("mode", ["auto", "legacy"])
@pytest.mark.asyncio(loop_scope="module")
async def test_over_http_each_client_has_its_own_key_and_session(
    served: Served, platform: Platform, platform_of_module: integration.Platform, mode: str
):
    other = (await platform_of_module.other_team(f"mcp{mode}")).reveal()
    async with served.client(platform.key, mode) as ours, served.client(other, mode) as theirs:
        box = (await ours("create_sandbox"))["id"]
        assert await theirs("list_sandboxes") == []
        assert "no sandbox" in (await theirs.failing("kill_sandbox", sandbox_id=box)).lower()
        assert (await ours("run_command", sandbox_id=box, command="echo hi"))["stdout"] == "hi\n"
        assert "at most 1" in await ours.failing("create_sandbox"), "the limit is the key's"
        await theirs("kill_sandbox", sandbox_id=(await theirs("create_sandbox"))["id"])


@pytest.mark.asyncio(loop_scope="module")
async def test_over_http_a_key_is_needed(served: Served, platform: Platform):
    body = {"jsonrpc": "2.0", "id": 1, "method": "tools/list"}
    wanted = {"Accept": "application/json, text/event-stream"}
    async with httpx2.AsyncClient(trust_env=False, headers=wanted) as client:
        assert (await client.post(served.url, json=body)).status_code == 401
        for wrong in ("wrn_" + "0" * 32, "x", "x" * 5000, "ü"):
            headers = {b"Authorization": f"Bearer {wrong}".encode()}
            assert (await client.post(served.url, json=body, headers=headers)).status_code == 401
        # A page in a browser that has given our address to its own host name.
        headers = {"Authorization": f"Bearer {platform.key}", "Host": "attacker.example"}
        assert (await client.post(served.url, json=body, headers=headers)).status_code == 421


def test_bad_options_are_refused():
    def message(*options: str) -> str:
        result = CliRunner().invoke(app, ["mcp", *options], env={"COLUMNS": "200"})
        assert result.exit_code == 2, result.output
        return result.output

    assert "an address and a port" in message("--http", "8765")
    assert "not with --http" in message("--http", "127.0.0.1:1", "--session", "a")
    assert "letters, digits" in message("--session", "a b")
    assert "only with --http" in message("--allow-host", "a")
