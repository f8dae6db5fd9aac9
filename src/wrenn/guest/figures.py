"""What a guest says about its own memory and disk."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Any, Final

import aiohttp

from wrenn.base.errors import AgentFailure
from wrenn.base.units import KIB
from wrenn.guest.connect import GuestConnection, unreachable
from wrenn.guest.values import json_object
from wrenn.relay import read_bounded

_ANSWER_LIMIT_B: Final = 16 * KIB
_SIZE_LIMIT_B: Final = 1 << 42
"""No guest has so much memory or disk."""


@dataclass(frozen=True, slots=True)
class GuestFigures:
    """Memory and root file system of a guest, in bytes."""

    mem_used_b: int
    mem_available_b: int
    disk_used_b: int
    disk_total_b: int


async def read_figures(guest: GuestConnection, *, timeout_s: float) -> GuestFigures:
    """Return the guest's own figures, which are possible ones but may be lies.

    Raises:
        Unavailable: no answer in time. AgentFailure: an answer that makes no sense.
    """
    try:
        async with (
            asyncio.timeout(timeout_s),
            guest.session.get(
                f"{guest.base_url}/metrics", headers=guest.headers("root"), allow_redirects=False
            ) as response,
        ):
            body = await read_bounded(response, _ANSWER_LIMIT_B, sender="sandbox")
            if response.status != 200:
                raise AgentFailure(f"The sandbox answered with status {response.status}.")
    except (aiohttp.ClientError, TimeoutError, OSError, RuntimeError) as error:
        # RuntimeError: a pause has closed the session.
        raise unreachable(error) from error
    found = json_object(body)
    mem_total_b, mem_used_b = _size(found, "mem_total"), _size(found, "mem_used")
    return GuestFigures(
        mem_used_b,
        max(0, mem_total_b - mem_used_b),
        _size(found, "disk_used"),
        _size(found, "disk_total"),
    )


def _size(found: dict[str, Any], name: str) -> int:
    value = found.get(name)
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < _SIZE_LIMIT_B:
        raise AgentFailure("The sandbox sent a figure that is not possible.", context={"figure": name})
    return value
