"""What teams may have: looked up by them, set by an admin of the platform."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from wrenn.base.errors import NotFound
from wrenn.base.ids import TeamId
from wrenn.control.auth import Account, Caller
from wrenn.control.db import Database
from wrenn.control.quotas import store
from wrenn.control.quotas.limits import Limits, Standing

FindStanding = Callable[[TeamId], Awaitable[Standing]]
"""A team's limits with what it uses of them."""


class Quotas:
    """See the module head. `find_standing` counts what other features keep."""

    def __init__(self, *, database: Database, find_standing: FindStanding) -> None:
        self._database = database
        self._find_standing = find_standing

    async def standing(self, caller: Caller) -> Standing:
        """What the caller's team may have, and what it has."""
        return await self._find_standing(caller.team_id)

    async def limits(self, team_id: TeamId) -> Limits:
        """A team's own limits; None in them: the installation's default. For admins of the platform.

        Raises:
            NotFound: no such team.
        """
        limits = await store.load(self._database, team_id)
        if limits is None:
            raise _no_team(team_id)
        return limits

    async def set_limits(self, admin: Account, team_id: TeamId, limits: Limits) -> Limits:
        """Set all of them; None: the installation's default again. What a team has already stays.

        Raises:
            NotFound: no such team.
        """
        actor = admin.actor
        if not await self._database.transaction(lambda tx: store.write(tx, team_id, limits, by=actor)):
            raise _no_team(team_id)
        return limits


def _no_team(team_id: TeamId) -> NotFound:
    return NotFound(f"There is no team {team_id}.")
