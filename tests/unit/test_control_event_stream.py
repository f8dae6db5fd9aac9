"""Events for a client that is stuck: its stream ends, and lets go of what it holds."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

import pytest

from wrenn.control.http import EventsResponse, event_stream


async def test_a_client_that_takes_nothing_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(event_stream, "_SEND_TIMEOUT_S", 0.05)
    sent: list[str] = []
    is_open = False

    @asynccontextmanager
    async def opening() -> AsyncGenerator[AsyncIterator[Mapping[str, str] | None]]:
        async def events() -> AsyncIterator[Mapping[str, str] | None]:
            while True:
                yield {"type": "write"}

        nonlocal is_open
        is_open = True
        try:
            yield events()
        finally:
            is_open = False

    async def send(message: Any) -> None:
        sent.append(message["type"])
        if len(sent) == 3:
            await asyncio.Event().wait()

    async def receive() -> Any:
        await asyncio.Event().wait()

    async with asyncio.timeout(5):
        await EventsResponse(opening())({"type": "http"}, receive, send)
    assert (len(sent), is_open) == (3, False)
