"""Quotas: what a team may have at once. Features count their resources and call `QuotaStatus.admit` under a lock.

The endpoints are `routes`, over `service`; both know callers, what is here does not.
"""

from wrenn.control.quotas.limits import NO_LIMIT, Limits, QuotaExceeded, QuotaStatus, Usage
from wrenn.control.quotas.store import (
    LIMIT_COLUMNS,
    limits_of,
    lock_owner,
    most_of,
    owned_together,
    owner_limits_of,
)
from wrenn.control.quotas.tables import team_limits

__all__ = [
    "LIMIT_COLUMNS",
    "NO_LIMIT",
    "Limits",
    "QuotaExceeded",
    "QuotaStatus",
    "Usage",
    "limits_of",
    "lock_owner",
    "most_of",
    "owned_together",
    "owner_limits_of",
    "team_limits",
]
