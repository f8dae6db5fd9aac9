"""Deletes a team: its API keys at once, and everything that it has, in one transaction."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence

from wrenn.base.ids import TeamId
from wrenn.control.audit import Actor, record
from wrenn.control.db import Transaction
from wrenn.control.identity import audit_actions
from wrenn.control.teams import team_store

RemoveAll = Callable[[Transaction, TeamId, Actor], Awaitable[None]]
"""Have all that a team has of one kind removed, in the transaction that ends the team; the audit log names who ends it."""


class TeamDeletion:
    """Deletes a team with its API keys and everything that it has, in one transaction. What a team has belongs to features that this one does not know; they are handed in."""

    def __init__(self, *, removals: Sequence[RemoveAll], wake: Callable[[], object]) -> None:
        self._removals = removals
        self._wake = wake

    async def delete(self, tx: Transaction, team_id: TeamId, *, by: Actor) -> None:
        """Delete the team and everything that belongs to it. The caller holds the team's lock."""
        await team_store.delete_team(tx, team_id)
        await record(tx, team_id, by, audit_actions.TEAM_DELETED, str(team_id))
        for remove_all in self._removals:
            await remove_all(tx, team_id, by)

    def after_commit(self) -> None:
        """Wake the loops that remove things; call it when the transaction is committed."""
        self._wake()
