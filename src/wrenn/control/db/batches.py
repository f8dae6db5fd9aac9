"""Deletes many rows in batches, so that no lock is held for long."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final

_PAUSE_S: Final = 0.05


async def in_batches(delete_some: Callable[[], Awaitable[int]]) -> int:
    """Call `delete_some`, which says how many there were, until there are none; how many that was together."""
    gone = 0
    while batch := await delete_some():
        gone += batch
        await asyncio.sleep(_PAUSE_S)
    return gone
