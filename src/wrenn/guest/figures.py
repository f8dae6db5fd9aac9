"""What a guest says about its own memory and disk."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

from wrenn.base.errors import AgentFailure
from wrenn.base.units import KIB
from wrenn.guest.connect import GuestConnection
from wrenn.guest.values import json_object

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
    body = await guest.get("/metrics", timeout_s=timeout_s, limit_b=_ANSWER_LIMIT_B)
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
