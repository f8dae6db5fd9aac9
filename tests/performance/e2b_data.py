"""The guest agent as the e2b SDKs use it: a command and a file of 100 MB, through the platform beside straight to the guest agent."""

from __future__ import annotations

import json
import os
import struct
from collections.abc import AsyncIterator, Mapping

import aiohttp

from tests.performance.figures import Figure, alternating, median, timed_ms
from tests.performance.floor import straight_to_guest
from tests.vm.platform import Platform
from wrenn.base.units import MIB

SIZE_B = 100 * MIB
COMMANDS = 40
_CHUNK = os.urandom(256 * 1024)
_START = json.dumps(
    {"process": {"cmd": "/bin/bash", "args": ["-l", "-c", "true"], "envs": {}}, "stdin": False}
).encode()
_STREAM = {"Content-Type": "application/connect+json", "Connect-Protocol-Version": "1"}
_FILE = {"Content-Type": "application/octet-stream"}


async def e2b_data(platform: Platform, rounds: int) -> list[Figure]:
    """Figures of the guest agent's calls."""
    rounds = max(3, rounds // 4)
    async with platform.client() as api:
        sandbox_id: str = (await api.post("/v1/sandboxes", json={})).json()["id"]
        token = (await api.get(f"/e2b/sandboxes/{sandbox_id}")).json()["envdAccessToken"]
        routed = {"E2b-Sandbox-Id": sandbox_id.removeprefix("cl-"), "E2b-Sandbox-Port": "49983"}
        async with (
            straight_to_guest(platform, sandbox_id) as guest,
            _client(guest.base_url, guest.headers("root")) as straight,
            _client(platform.base_url, {**routed, "X-Access-Token": token}) as proxied,
        ):

            async def pair(call: str) -> tuple[list[float], list[float]]:
                calls = {"command": _command, "upload": _upload, "download": _download}
                return await alternating(
                    lambda: timed_ms(lambda: calls[call](straight)),
                    lambda: timed_ms(lambda: calls[call](proxied)),
                    rounds=COMMANDS if call == "command" else rounds,
                )

            await _command(straight)
            await _command(proxied)
            commands, ups, downs = [await pair(call) for call in ("command", "upload", "download")]
        await api.delete(f"/v1/sandboxes/{sandbox_id}")
    floor, value = (median(each) for each in commands)
    return [
        Figure(
            f"e2b `commands.run(\"true\")` ({COMMANDS} rounds)", f"{floor:.1f} ms (straight to the guest agent)",
            f"{value:.1f} ms", f"+ {value - floor:.1f} ms", "≤ + 5 ms", value - floor <= 5,
        ),
        _speed(f"e2b upload of 100 MB ({rounds} rounds)", *ups),
        _speed(f"e2b download of 100 MB ({rounds} rounds)", *downs),
    ]  # fmt: skip


def _client(url: str, headers: Mapping[str, str]) -> aiohttp.ClientSession:
    return aiohttp.ClientSession(url, headers=headers, timeout=aiohttp.ClientTimeout(total=300))


async def _command(client: aiohttp.ClientSession) -> None:
    body = struct.pack(">BI", 0, len(_START)) + _START
    async with client.post("/process.Process/Start", data=body, headers=_STREAM) as answer:
        said = await answer.read()
        assert answer.status == 200, answer.status
        assert b'"exited":true' in said.replace(b" ", b""), said


async def _content() -> AsyncIterator[bytes]:
    for _ in range(SIZE_B // len(_CHUNK)):
        yield _CHUNK


async def _upload(client: aiohttp.ClientSession) -> None:
    query = {"path": "/root/file", "username": "root"}
    async with client.post("/files", params=query, data=_content(), headers=_FILE) as answer:
        assert answer.status == 200, await answer.text()


async def _download(client: aiohttp.ClientSession) -> None:
    received = 0
    async with client.get("/files", params={"path": "/root/file", "username": "root"}) as answer:
        async for chunk in answer.content.iter_any():
            received += len(chunk)
    assert received == SIZE_B


def _speed(name: str, floors: list[float], values: list[float]) -> Figure:
    floor, value = (SIZE_B / 1e6 / (median(each) / 1000) for each in (floors, values))
    return Figure(
        name, f"{floor:.0f} MB/s (straight to the guest agent)", f"{value:.0f} MB/s", f"{value / floor:.2f}", "≥ 0.80",
        value / floor >= 0.8,
    )  # fmt: skip
