"""Builds of templates that the figures are made of."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

import httpx2

_DEADLINE_S = 600.0
_POLL_S = 0.02


async def build(api: httpx2.AsyncClient, body: Mapping[str, object]) -> dict[str, Any]:
    """Build a template, which must succeed; returns the build."""
    answer = await api.post("/v1/builds", json=body)
    assert answer.status_code == 201, answer.text
    path = f"/v1/builds/{answer.json()['id']}"
    async with asyncio.timeout(_DEADLINE_S):
        while (found := (await api.get(path)).json())["status"] in ("pending", "running"):
            await asyncio.sleep(_POLL_S)
    assert found["status"] == "success", found
    return found
