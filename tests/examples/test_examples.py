"""Each file in `examples/` does what it says. The model is a script; everything else is real.

The programs run with the packages of `examples/requirements.lock`, which `make test-tools` installs apart from ours. Cost: about 20 s.
"""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from tests.examples.packages import PYTHON, ROOT, install
from tests.integration.conftest import Platform
from wrenn import AsyncSandbox

pytestmark = pytest.mark.asyncio(loop_scope="module")

SCRIPTS = Path(__file__).parent / "scripted"
PROGRAM = "print(6 * 7)"
STEPS: list[tuple[str, dict[str, str]]] = [
    ("write_file", {"path": "/work/a.py", "text": PROGRAM}),
    ("run", {"command": "python3 /work/a.py"}),
    ("run", {"command": "cat /nothing"}),
]
"""What the scripted models do before they answer."""


@pytest.fixture(scope="session", autouse=True)
def packages() -> None:
    """What the examples use, installed by the first test of a checkout."""
    install()


@pytest_asyncio.fixture(loop_scope="module")
async def platform(platform_of_module: Platform) -> AsyncIterator[Platform]:
    """The platform. No example leaves a sandbox behind."""
    yield platform_of_module
    assert (
        await AsyncSandbox.list(api_key=platform_of_module.key.reveal(), base_url=platform_of_module.url)
        == []
    )


async def python(platform: Platform, *arguments: str | Path, **environment: str) -> tuple[int, str]:
    """Run a program with the examples' packages; return its exit code and what it printed."""
    process = await asyncio.create_subprocess_exec(
        PYTHON,
        *arguments,
        cwd=ROOT / "examples",
        env={
            "PATH": os.environ["PATH"],
            "HOME": "/nonexistent",
            "PYTHONPATH": f"{ROOT / 'src'}:{ROOT / 'examples'}",
            "PYTHONDONTWRITEBYTECODE": "1",
            "WRENN_BASE_URL": platform.url,
            "WRENN_API_KEY": platform.key.reveal(),
            "STEPS": json.dumps(STEPS),
            **environment,
        },
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    try:
        output, _ = await asyncio.wait_for(process.communicate(), 100)
    finally:
        if process.returncode is None:
            process.kill()
    code = process.returncode
    assert code is not None
    return code, output.decode()


class ScriptedModel:
    """The part of Anthropic's API that its client calls: takes the steps, then answers with the last two results."""

    def __init__(self) -> None:
        self.requests: list[dict[str, Any]] = []

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serve the requests of one connection."""
        while head := await reader.readuntil(b"\r\n\r\n"):
            length = next(
                int(line.split(b":")[1]) for line in head.lower().splitlines() if b"content-length:" in line
            )
            request = json.loads(await reader.readexactly(length))
            assert head.startswith(b"POST /v1/messages ")
            self.requests.append(request)
            body = json.dumps(self._answer(request)).encode()
            writer.write(
                b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s"
                % (len(body), body)
            )
            await writer.drain()

    @staticmethod
    def _answer(request: dict[str, Any]) -> dict[str, Any]:
        taken = sum(message["role"] == "assistant" for message in request["messages"])
        if taken < len(STEPS):
            name, arguments = STEPS[taken]
            content: dict[str, Any] = {
                "type": "tool_use",
                "id": f"call{taken}",
                "name": name,
                "input": arguments,
            }
        else:
            results = [message["content"][0]["content"] for message in request["messages"][2::2]]
            content = {"type": "text", "text": " | ".join(results)}
        return {
            "id": "msg_1",
            "type": "message",
            "role": "assistant",
            "model": request["model"],
            "content": [content],
            "stop_reason": "tool_use" if content["type"] == "tool_use" else "end_turn",
            "stop_sequence": None,
            "usage": {"input_tokens": 1, "output_tokens": 1},
        }


async def test_an_agent_with_anthropic(platform: Platform):
    model = ScriptedModel()
    server = await asyncio.start_server(model.serve, "127.0.0.1", 0)
    async with server:
        port = server.sockets[0].getsockname()[1]
        code, output = await python(
            platform,
            "anthropic_agent.py",
            "Which number?",
            ANTHROPIC_API_KEY="none",
            ANTHROPIC_BASE_URL=f"http://127.0.0.1:{port}",
        )
    assert code == 0, output
    assert model.requests[0]["messages"][0]["content"] == "Which number?"
    assert "wrote /work/a.py | 42\n\n[exit code 0] | " in output
    assert "[exit code 1]" in output


@pytest.mark.parametrize("name", ["openai_agent", "deepagents_backend"])
async def test_agents_of_frameworks(platform: Platform, name: str):
    code, output = await python(platform, SCRIPTS / f"{name}_scripted.py")
    assert code == 0, output
    assert "42" in output
    assert "/nothing" in output, "a failed command has a result too"


async def test_tests_in_sandboxes(platform: Platform, tmp_path: Path):
    # The plugin is named because `wrenn` is not installed there, and the settings of our own tests do not hold.
    pytest_ = (
        "-m",
        "pytest",
        "-c",
        "/dev/null",
        "--rootdir",
        tmp_path,
        "-p",
        "wrenn.pytest_plugin",
        "-p",
        "no:cacheprovider",
    )
    code, output = await python(platform, *pytest_, "test_in_sandboxes.py")
    assert code == 0, output
    assert "2 passed" in output

    failing = tmp_path / "test_failing.py"
    failing.write_text(
        "def test_a(wrenn):\n    wrenn.create().files.write('/root/a', 'kept')\n    assert False\n"
    )
    assert (await python(platform, *pytest_, failing))[0] == 1
    key = platform.key.reveal()
    assert await AsyncSandbox.list(api_key=key, base_url=platform.url) == []

    code, output = await python(platform, *pytest_, failing, "--wrenn-keep")
    assert code == 1
    (kept,) = await AsyncSandbox.list(api_key=key, base_url=platform.url)
    assert kept.status == "paused"
    assert kept.id in output
    async with await AsyncSandbox.connect(kept.id, api_key=key, base_url=platform.url) as sandbox:
        assert await sandbox.files.read("/root/a") == "kept"
