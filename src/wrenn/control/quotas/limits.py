"""Values for a team's limits and usage, and the check whether more fits."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Final

from wrenn.base.errors import Conflict, RateLimited

NO_LIMIT: Final = 0
"""As a default of the installation. In a team's own limits 0 is 0."""


class QuotaExceeded(Conflict):
    """The team's quota does not allow this; the details say which limit. Trying again does not help."""

    code = "quota_exceeded"


@dataclass(frozen=True, slots=True)
class Limits:
    """The limits of a team; None: no limit.

    Attributes:
        running_sandboxes: that take memory: all that have not ended and are not paused.
        total_sandboxes: with the paused ones.
        vcpus, memory_mb: of the running ones together.
        snapshot_mb: of the files of its templates on disk.
        creates_per_second: new sandboxes, copies of forks too, within any second.
    """

    running_sandboxes: int | None = None
    total_sandboxes: int | None = None
    vcpus: int | None = None
    memory_mb: int | None = None
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


@dataclass(frozen=True, slots=True)
class Usage:
    """What a team uses now, or would use in addition; the fields are those of `Limits`."""

    running_sandboxes: int = 0
    total_sandboxes: int = 0
    vcpus: int = 0
    memory_mb: int = 0
    snapshot_mb: int = 0
    creates_per_second: int = 0


_WHAT: Final = {
    "running_sandboxes": "running sandboxes",
    "total_sandboxes": "sandboxes",
    "vcpus": "vCPUs",
    "memory_mb": "MB of memory",
    "snapshot_mb": "MB of snapshots",
}
_REMEDY: Final = {
    "running_sandboxes": "Pause or remove one",
    "total_sandboxes": "Remove one",
    "vcpus": "Pause or remove a sandbox",
    "memory_mb": "Pause or remove a sandbox",
    "snapshot_mb": "Remove a template",
}


@dataclass(frozen=True, slots=True)
class QuotaStatus:
    """A team's limits and usage; valid until the transaction ends in which it was read under the lock.

    Attributes:
        owner: the limits and usage of all teams of the team's owner together; None: they are not known here.
    """

    limits: Limits
    usage: Usage
    owner: QuotaStatus | None = None

    def admit(self, wanted: Usage) -> None:
        """Return if the team, and its owner, may use this much more.

        Raises:
            QuotaExceeded: it does not, of something that must be given up first. RateLimited: not within this second.
        """
        self._admit(wanted, "The team", "it has")
        if self.owner is not None:
            self.owner._admit(wanted, "All teams of this team's owner together", "they have")

    def _admit(self, wanted: Usage, who: str, has: str) -> None:
        for name, what in _WHAT.items():
            limit, used, more = (getattr(part, name) for part in (self.limits, self.usage, wanted))
            if limit is not None and more > 0 and used + more > limit:
                raise QuotaExceeded(
                    f"{who} may have {limit} {what}; {has} {used}, and {more} more would be "
                    f"{used + more - limit} too many. {_REMEDY[name]}, or ask an admin of the platform for more.",
                    details={"quota": name, "limit": limit, "used": used, "wanted": more},
                )
        rate, made, more = (
            self.limits.creates_per_second,
            self.usage.creates_per_second,
            wanted.creates_per_second,
        )
        if rate is not None and more > rate:
            raise QuotaExceeded(
                f"{who} may create {rate} sandboxes a second; {more} at once are too many.",
                details={"quota": "creates_per_second", "limit": rate, "used": made, "wanted": more},
            )
        if rate is not None and more > 0 and made + more > rate:
            raise RateLimited(f"{who} may create {rate} sandboxes a second. Try again in a second.")
