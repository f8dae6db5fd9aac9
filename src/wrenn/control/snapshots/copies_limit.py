"""Decides which fetched snapshots leave a host whose copies take more than their limit, or whose disk is nearly full. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from wrenn.base.ids import SnapshotId

_FREE_SHARE: Final = 0.1
"""Copies leave a host of whose disk less than this is free, whatever they take."""


@dataclass(frozen=True, slots=True)
class SnapshotCopy:
    """A snapshot that a host fetched.

    Attributes:
        size_b: of its own files. layers: bytes of those that other snapshots may have too, by id.
        idle_s: since a sandbox was last created from it.
    """

    snapshot_id: SnapshotId
    size_b: int
    idle_s: float
    layers: Mapping[str, int] = field(default_factory=dict[str, int])


def limit_of(copies: Sequence[SnapshotCopy], limit_b: int, *, disk_b: int, available_b: int) -> int | None:
    """Return what these copies may take: `limit_b` (0: no limit), or less by what their host's disk lacks; None: what they want.

    `disk_b` and `available_b` are 0 where they are not known.
    """
    shortage_b = int(disk_b * _FREE_SHARE) - available_b
    if disk_b <= 0 or shortage_b <= 0:
        return limit_b or None
    left_b = max(0, _size_b(copies) - shortage_b)
    return min(limit_b, left_b) if limit_b else left_b


def copies_beyond(copies: Sequence[SnapshotCopy], limit_b: int | None) -> list[SnapshotCopy]:
    """Return the copies that are to leave until the others take at most `limit_b`: all that were used before one that does not fit.

    A layer counts with the copy that was used last of those that have it. The one that has to leave first is the first.
    """
    if limit_b is None:
        return []
    total_b, counted = 0, set[str]()
    by_use = sorted(copies, key=lambda copy: copy.idle_s)
    for index, copy in enumerate(by_use):
        total_b += copy.size_b + sum(size_b for layer, size_b in copy.layers.items() if layer not in counted)
        counted |= copy.layers.keys()
        if total_b > limit_b:
            return by_use[index:][::-1]
    return []


def _size_b(copies: Sequence[SnapshotCopy]) -> int:
    layers = {layer: size_b for copy in copies for layer, size_b in copy.layers.items()}
    return sum(copy.size_b for copy in copies) + sum(layers.values())
