"""Reads a stream of events as a client does."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx2

from .conftest import DEADLINE_S

EVENTS = "/v1/events"


class Reader:
    """One stream. `last_id` is what to come back with."""

    def __init__(self, response: httpx2.Response) -> None:
        self._lines: AsyncIterator[str] = response.aiter_lines()
        self.last_id = ""

    async def next(self) -> tuple[str, dict[str, Any]] | None:
        """The next event and its data; None at the end of the stream."""
        kind, data = "", ""
        async with asyncio.timeout(DEADLINE_S):
            async for line in self._lines:
                name, _, value = line.partition(": ")
                match name:
                    case "id":
                        self.last_id = value
                    case "event":
                        kind = value
                    case "data":
                        data = value
                    case "" if kind:
                        return kind, json.loads(data)
                    case _:
                        pass
        return None

    async def take(self, count: int, *, with_progress: bool = False) -> list[tuple[str, dict[str, Any]]]:
        """So many events; on a slow machine there are events of the progress between them, which count only on request."""
        found: list[tuple[str, dict[str, Any]]] = []
        while len(found) < count:
            event = await self.next()
            assert event is not None, "the stream ended"
            if with_progress or event[0] != "sandbox.progress":
                found.append(event)
        return found

    async def until(self, kind: str) -> list[str]:
        """The types up to and with the first of this type."""
        kinds: list[str] = []
        while not kinds or kinds[-1] != kind:
            ((found, _),) = await self.take(1)
            kinds.append(found)
        return kinds


@asynccontextmanager
async def reading(
    api: httpx2.AsyncClient, after: str | None = None, expect: str = "ready", **params: str
) -> AsyncGenerator[Reader]:
    """A stream that has begun."""
    headers = {} if after is None else {"Last-Event-ID": after}
    async with api.stream("GET", EVENTS, headers=headers, params=params) as response:
        assert response.status_code == 200, await response.aread()
        assert response.headers["content-type"].startswith("text/event-stream")
        reader = Reader(response)
        assert await reader.next() == (expect, {"type": expect})
        yield reader
