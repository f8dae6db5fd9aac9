"""A platform with a neighbour and an attacker; what an attack does is defined in `attacks.py`."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2

from tests.vm.platform import Platform
from wrenn.base.units import KIB

DEADLINE_S = 60.0
MEMORY_MB = 256


def reset_peak(pid: int) -> int:
    """Begin to measure the peak of a process's resident memory anew; returns what it is now, in bytes."""
    Path(f"/proc/{pid}/clear_refs").write_text("5")
    return peak_b(pid)


def peak_b(pid: int) -> int:
    """Most resident memory of a process since `reset_peak`, in bytes."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * KIB
    raise ProcessLookupError(pid)


@dataclass(slots=True)
class Target:
    """One sandbox, seen through the API.

    Attributes:
        statuses: of all answers to `api`, those to the attack included.
    """

    platform: Platform
    api: httpx2.AsyncClient
    sandbox_id: str
    statuses: set[int]

    @property
    def path(self) -> str:
        """URL path of the sandbox."""
        return f"/v1/sandboxes/{self.sandbox_id}"

    @property
    def vmm_pid(self) -> int:
        """Process id of its VMM on the host."""
        journal = self.platform.data_dir / "sandboxes" / self.sandbox_id / "journal.json"
        return int(json.loads(journal.read_text())["process"]["pid"])

    async def exec(self, *argv: str, timeout_s: int = 30) -> httpx2.Response:
        """Run a program to its end."""
        body = {"cmd": argv[0], "args": list(argv[1:]), "timeout_sec": timeout_s}
        return await self.api.post(f"{self.path}/exec", json=body)

    async def start(self, source: str, *arguments: str) -> None:
        """Write a Python program into the sandbox and start it there in the background."""
        files = {"path": (None, "/root/hostile.py"), "file": ("f", source.encode())}
        written = await self.api.post(f"{self.path}/files/write", files=files)
        assert written.status_code == 204, written.text
        body = {
            "cmd": "python3",
            "args": ["/root/hostile.py", *arguments],
            "background": True,
            "tag": "hostile",
        }
        started = await self.api.post(f"{self.path}/exec", json=body)
        assert started.status_code == 202, started.text

    async def wait_listening(self, port: int) -> None:
        """Until a program in the sandbox listens on this port."""
        wanted = f":{port:04X} 00000000:0000 0A"
        async with asyncio.timeout(DEADLINE_S):
            while wanted not in (await self.exec("cat", "/proc/net/tcp")).json()["stdout"]:
                await asyncio.sleep(0.1)

    async def wait_agent_replaced(self) -> None:
        """Until the guest agent's port is served by the hostile program: it knows nothing of the real agent's processes."""
        async with asyncio.timeout(DEADLINE_S):
            while True:
                try:
                    answer = await self.api.get(f"{self.path}/processes", timeout=1)
                except httpx2.TimeoutException:
                    return
                if answer.status_code != 200 or "hostile" not in answer.text:
                    return
                await asyncio.sleep(0.1)


@asynccontextmanager
async def new_target(platform: Platform) -> AsyncGenerator[Target]:
    """A sandbox with a client of its own; it is removed at the end, if it still exists."""
    statuses: set[int] = set()

    async def note(answer: httpx2.Response) -> None:
        statuses.add(answer.status_code)

    async with platform.client() as api:
        api.event_hooks = {"request": [], "response": [note]}
        created = await api.post("/v1/sandboxes", json={"memory_mb": MEMORY_MB})
        assert created.status_code == 201, created.text
        target = Target(platform, api, created.json()["id"], statuses)
        try:
            yield target
        finally:
            await api.delete(target.path)


@asynccontextmanager
async def in_background(*calls: Any) -> AsyncGenerator[list[asyncio.Task[Any]]]:
    """Run coroutines until the context ends; what they return or raise is the attacker's business."""
    tasks = [asyncio.ensure_future(call) for call in calls]
    try:
        yield tasks
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def process_exists(pid: int) -> bool:
    """Whether a process of this id runs; a zombie does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False
