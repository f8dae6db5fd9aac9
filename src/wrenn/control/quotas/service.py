"""A team's limits, read by the team and set by admins of the platform."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from wrenn.base.errors import NotFound
from wrenn.base.ids import TeamId
from wrenn.control.auth import Account, Caller
from wrenn.control.db import Database
from wrenn.control.quotas import store
from wrenn.control.quotas.limits import Limits
from wrenn.control.quotas.quota_status import QuotaStatus

FindQuotaStatus = Callable[[TeamId], Awaitable[QuotaStatus]]
"""Reads a team's limits and usage."""


class Quotas:
    """Reads and sets the limits of teams. `find_quota_status` reads limits and usage together, since other features count the resources."""

    def __init__(self, *, database: Database, find_quota_status: FindQuotaStatus) -> None:
        self._database = database
        self._find_quota_status = find_quota_status

    async def status(self, caller: Caller) -> QuotaStatus:
        """Return the limits and usage of the caller's team."""
        return await self._find_quota_status(caller.team_id)

    async def limits(self, team_id: TeamId) -> Limits:
        """Return a team's own limits; None in them: the installation's default. For admins of the platform.

        Raises:
            NotFound: no such team.
        """
        limits = await store.load(self._database, team_id)
        if limits is None:
            raise _no_team(team_id)
        return limits

    async def set_limits(self, admin: Account, team_id: TeamId, limits: Limits) -> Limits:
        """Set all limits of a team; None: the installation's default. Existing sandboxes and templates stay.

        Raises:
            NotFound: no such team.
        """
        actor = admin.actor
        if not await self._database.transaction(lambda tx: store.write(tx, team_id, limits, by=actor)):
            raise _no_team(team_id)
        return limits


def _no_team(team_id: TeamId) -> NotFound:
    return NotFound(f"There is no team {team_id}.")
