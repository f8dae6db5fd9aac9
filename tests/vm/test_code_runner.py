"""The template `code-runner-beta` in a virtual machine: code by the API of its Jupyter server, as the public client uses it. Skipped where it was not built."""

from __future__ import annotations

import asyncio
import json
import time
import uuid
from pathlib import Path
from typing import Any

import pytest
from websockets.asyncio.client import connect

from tests.vm.platform import Platform

TEMPLATE = "code-runner-beta"
PORT = 8888
DEADLINE_S = 480.0


def execute_request(code: str) -> str:
    header: dict[str, Any] = {
        "msg_id": uuid.uuid4().hex,
        "msg_type": "execute_request",
        "username": "",
        "session": uuid.uuid4().hex,
        "version": "5.3",
    }
    content: dict[str, Any] = {
        "code": code,
        "silent": False,
        "store_history": True,
        "user_expressions": {},
        "allow_stdin": False,
    }
    message: dict[str, Any] = {
        "header": header,
        "parent_header": {},
        "metadata": {},
        "content": content,
        "channel": "shell",
    }
    return json.dumps({**message, "buffers": []})


async def output_of(kernel: connect, code: str) -> str:
    """What the code printed."""
    text = ""
    async with asyncio.timeout(120), kernel as channels:
        await channels.send(execute_request(code))
        while True:
            message: dict[str, Any] = json.loads(await channels.recv())
            if message["msg_type"] == "stream" and message["content"]["name"] == "stdout":
                text += message["content"]["text"]
            if message["msg_type"] == "execute_reply":
                assert message["content"]["status"] == "ok", message
            is_idle = message["content"].get("execution_state") == "idle"
            if is_idle and message["parent_header"].get("msg_type") == "execute_request":
                return text


@pytest.mark.timeout(600)
async def test_code_is_run_by_the_api_of_jupyter(images_dir: Path, platform: Platform) -> None:
    if not (images_dir / "templates" / TEMPLATE / "manifest.json").is_file():
        pytest.skip(f"the template is not built: sudo wrenn images build {TEMPLATE}")
    deadline = time.monotonic() + DEADLINE_S
    async with platform.client() as api:
        # Under emulation it takes minutes to make the base with the server in it, longer than a request waits.
        while (made := await api.post("/v1/capsules", json={"template": TEMPLATE})).status_code != 201:
            assert made.status_code == 504, made.text
            assert time.monotonic() < deadline
        sandbox_id = made.json()["id"]
        named = {"X-Wrenn-Sandbox": sandbox_id, "X-Wrenn-Port": str(PORT)}
        started = await api.post("/api/kernels", json={"name": "python3"}, headers=named)
        assert started.status_code == 201, started.text
        path = f"/api/kernels/{started.json()['id']}"

        def channels() -> connect:
            headers = {"X-API-Key": platform.key, **named}
            url = platform.base_url.replace("http:", "ws:") + f"{path}/channels"
            # The server answers once the kernel is up, which takes a while under emulation.
            return connect(url, additional_headers=headers, proxy=None, open_timeout=120)

        assert await output_of(channels(), "x = 20; print('hello'); import pandas, matplotlib") == "hello\n"
        assert await output_of(channels(), "print(x + 1, __import__('getpass').getuser())") == "21 user\n"
        assert (await api.delete(path, headers=named)).status_code == 204
        assert (await api.delete(f"/v1/capsules/{sandbox_id}")).status_code in (200, 202, 204)
