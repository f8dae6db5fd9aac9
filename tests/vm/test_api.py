"""Through the whole platform: what only shows with a real guest behind the API."""

from __future__ import annotations

import asyncio
from typing import Any

import httpx2
import pytest

from tests.vm.platform import Platform


async def exec_(api: httpx2.AsyncClient, sandbox_id: str, script: str) -> dict[str, Any]:
    answer = await api.post(
        f"/v1/sandboxes/{sandbox_id}/exec", json={"cmd": "/bin/sh", "args": ["-c", script]}
    )
    assert answer.status_code == 200, answer.text
    return answer.json()


async def test_a_client_that_disconnects_ends_its_command(platform: Platform) -> None:
    async with platform.client() as api:
        sandbox_id = (await api.post("/v1/capsules", json={"memory_mb": 256})).json()["id"]
        path = f"/v1/sandboxes/{sandbox_id}/exec"
        body = {"cmd": "sleep", "args": ["4711"], "timeout_sec": 600}
        with pytest.raises(httpx2.ReadTimeout):
            await api.post(path, json=body, timeout=1.5)
        async with asyncio.timeout(20):
            while (await exec_(api, sandbox_id, "pgrep -fc '[s]leep 4711' || true"))["stdout"] != "0\n":
                await asyncio.sleep(0.1)


async def test_non_utf_8_names_and_bytes_pass_unchanged(platform: Platform) -> None:
    async with platform.client() as api:
        sandbox_id = (await api.post("/v1/sandboxes", json={"memory_mb": 256})).json()["id"]
        base = f"/v1/sandboxes/{sandbox_id}/files"
        name = "/root/über uns\nzwei"
        content = bytes(range(256)) * 300
        files = {"path": (None, name), "file": ("f", content)}
        assert (await api.post(f"{base}/write", files=files)).status_code == 204
        read = await api.post(f"{base}/read", json={"path": name})
        assert (read.status_code, read.content) == (200, content)
        entries = (await api.post(f"{base}/list", json={"path": "/root"})).json()["entries"]
        assert (name, "file", len(content)) in [(e["path"], e["type"], e["size"]) for e in entries]
        assert (await api.post(f"{base}/read", json={"path": "/root/none"})).status_code == 404
        assert (await api.post(f"{base}/read", json={"path": "/root"})).status_code == 400
        result = await exec_(api, sandbox_id, r"printf '\377'; exit 3")
        assert (result["encoding"], result["stdout"], result["exit_code"]) == ("base64", "/w==", 3)
