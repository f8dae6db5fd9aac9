"""Calls of the API that the figures are made of; each must succeed."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import httpx2


async def create(api: httpx2.AsyncClient, **fields: object) -> str:
    """A new sandbox; returns its id."""
    return str((await _post(api, "/v1/sandboxes", fields, 201))["id"])


async def remove(api: httpx2.AsyncClient, sandbox_id: str) -> None:
    """Remove it."""
    answer = await api.delete(f"/v1/sandboxes/{sandbox_id}")
    assert answer.status_code == 204, answer.text


async def pause(api: httpx2.AsyncClient, sandbox_id: str) -> None:
    """Put it away."""
    assert (await _post(api, f"/v1/sandboxes/{sandbox_id}/pause", None, 200))["status"] == "paused"


async def resume(api: httpx2.AsyncClient, sandbox_id: str) -> None:
    """Bring it back."""
    assert (await _post(api, f"/v1/sandboxes/{sandbox_id}/resume", None, 200))["status"] == "running"


async def fork(api: httpx2.AsyncClient, sandbox_id: str, count: int) -> list[str]:
    """Copies of it; returns their ids."""
    answer = await _post(api, f"/v1/sandboxes/{sandbox_id}/fork", {"count": count}, 201)
    assert [copy["status"] for copy in answer["sandboxes"]] == ["running"] * count
    return [str(copy["id"]) for copy in answer["sandboxes"]]


async def keep(api: httpx2.AsyncClient, sandbox_id: str, name: str) -> None:
    """Make a template of it."""
    await _post(api, "/v1/snapshots", {"sandbox_id": sandbox_id, "name": name}, 201)


async def forget(api: httpx2.AsyncClient, name: str) -> None:
    """Remove a template."""
    answer = await api.delete(f"/v1/snapshots/{name}")
    assert answer.status_code == 204, answer.text


async def run(api: httpx2.AsyncClient, sandbox_id: str, script: str = "true") -> str:
    """Run a shell script in it; returns what it wrote."""
    body = {"cmd": "/bin/sh", "args": ["-c", script], "timeout_sec": 60}
    answer = await _post(api, f"/v1/sandboxes/{sandbox_id}/exec", body, 200)
    assert answer["exit_code"] == 0, answer
    return str(answer["stdout"])


async def _post(api: httpx2.AsyncClient, path: str, body: object, status: int) -> dict[str, Any]:
    answer = await api.post(path, json=body) if body is not None else await api.post(path)
    assert answer.status_code == status, f"{path}: {answer.text}"
    return answer.json()


def stopwatch() -> Callable[[], float]:
    """A function that says how many ms have passed since this call."""
    started = time.perf_counter()
    return lambda: (time.perf_counter() - started) * 1000
