"""Usage of a team beside its limits, and the check whether it may use more."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final

from wrenn.base.errors import Conflict, RateLimited
from wrenn.control.quotas.limits import Limits


class QuotaExceeded(Conflict):
    """The team's quota does not allow this; the details say which limit. Trying again does not help."""

    code = "quota_exceeded"


@dataclass(frozen=True, slots=True)
class Usage:
    """What a team uses now, or would use in addition; the fields are those of `Limits`."""

    running_sandboxes: int = 0
    total_sandboxes: int = 0
    vcpus: int = 0
    memory_mb: int = 0
    templates: int = 0
    snapshot_mb: int = 0
    creates_per_second: int = 0


_WHAT: Final = {
    "running_sandboxes": "running sandboxes",
    "total_sandboxes": "sandboxes",
    "vcpus": "vCPUs",
    "memory_mb": "MB of memory",
    "templates": "templates and snapshots",
    "snapshot_mb": "MB of snapshots",
}
_REMEDY: Final = {
    "running_sandboxes": "Pause or remove one",
    "total_sandboxes": "Remove one",
    "vcpus": "Pause or remove a sandbox",
    "memory_mb": "Pause or remove a sandbox",
    "templates": "Remove one",
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

    def require_within_quota(self, wanted: Usage) -> None:
        """Check that the team, and all teams of its owner together, may use this much more.

        Raises:
            QuotaExceeded: a limit would be exceeded until the team uses less. RateLimited: too many creates within this second; a retry may succeed.
        """
        self._require(wanted, "The team", "it has")
        if self.owner is not None:
            self.owner._require(wanted, "All teams of this team's owner together", "they have")

    def require_owner_has_capacity(self) -> None:
        """Check that all teams of the owner together may have what this team, which comes from another owner, has.

        Raises:
            QuotaExceeded: a limit of the owner would be exceeded.
        """
        owner = self.owner
        if owner is None:
            return
        names = _WHAT.keys()
        others = Usage(**{name: getattr(owner.usage, name) - getattr(self.usage, name) for name in names})
        has = replace(self.usage, creates_per_second=0)
        QuotaStatus(owner.limits, others)._require(has, "All teams of the new owner together", "they have")

    def _require(self, wanted: Usage, who: str, has: str) -> None:
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
