"""What all teams of one owner may take together of something that all teams of a replica share.

A user may own many teams: a limit of each team alone would let one user take what there is.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from uuid import UUID

from wrenn.base.errors import RateLimited
from wrenn.base.ids import TeamId
from wrenn.control.db import Database
from wrenn.control.identity.store import owning_user_of


class OwnerShare:
    """Counts what each owner's teams have at this replica. `what`: for messages, in the plural.

    Nobody is limited before `scarce_from` are taken: where one user owns all teams, there is nobody to leave something for.
    """

    def __init__(self, database: Database, *, limit: int, what: str, scarce_from: int = 0) -> None:
        self._database = database
        self._limit = limit
        self._scarce_from = scarce_from
        self._what = what
        self._taken: Counter[UUID] = Counter()

    @asynccontextmanager
    async def taken(self, team_id: TeamId) -> AsyncGenerator[UUID]:
        """Take one for a team as long as the context lasts, which is given the id of the owner.

        Raises:
            RateLimited: all teams of its owner together have as many as they may.
        """
        owner = await owning_user_of(self._database, team_id)
        if self._taken[owner] >= self._limit and self._taken.total() >= self._scarce_from:
            raise RateLimited(
                f"All teams of this team's owner may have {self._limit} {self._what} at once. Try again later."
            )
        self._taken[owner] += 1
        try:
            yield owner
        finally:
            self._taken[owner] -= 1
            # Owners who have none any more.
            self._taken += Counter()
