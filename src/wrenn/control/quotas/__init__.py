"""Quotas: how much a team may have at once. Features count their resources and call `QuotaStatus.require_within_quota` under a lock.

`limits.py` and `quota_status.py` are values without callers; `routes.py` and `service.py` are the endpoints.
"""

from wrenn.control.quotas.limits import NO_LIMIT, Limits
from wrenn.control.quotas.quota_status import QuotaExceeded, QuotaStatus, Usage
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
