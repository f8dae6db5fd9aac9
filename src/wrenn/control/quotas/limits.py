"""The limits of a team, as values."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Final

NO_LIMIT: Final = 0
"""The value of an installation's default that means "no limit". In a team's own limits 0 means that nothing is allowed."""


@dataclass(frozen=True, slots=True)
class Limits:
    """The limits of a team; None: no limit.

    Attributes:
        running_sandboxes: that take memory: all that have not ended and are not paused.
        total_sandboxes: with the paused ones.
        vcpus, memory_mb: of the running ones together.
        templates: that it has, with those that are snapshots, and with each version that has a tag.
        snapshot_mb: of the files of its templates on disk, and of the saved states that the store has of it.
        creates_per_second: new sandboxes, copies of forks too, within any second.
    """

    running_sandboxes: int | None = None
    total_sandboxes: int | None = None
    vcpus: int | None = None
    memory_mb: int | None = None
    templates: int | None = None
    snapshot_mb: int | None = None
    creates_per_second: int | None = None

    def over(self, defaults: Limits) -> Limits:
        """Return these limits, with the defaults where one is not set."""
        own = {f.name: value for f in fields(self) if (value := getattr(self, f.name)) is not None}
        return replace(defaults, **own)

    def widened(self, most: Limits) -> Limits:
        """Return these limits, each raised to that of `most` where that is higher. None stays None."""
        higher = {
            f.name: max(limit, other)
            for f in fields(self)
            if (limit := getattr(self, f.name)) is not None and (other := getattr(most, f.name)) is not None
        }
        return replace(self, **higher)
