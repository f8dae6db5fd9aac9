"""What admins of the platform do with users and teams."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence

from wrenn.base.errors import InvalidRequest, NotFound
from wrenn.base.ids import TeamId, UserId
from wrenn.control.administration import store as admin_store
from wrenn.control.administration.store import TeamRecord, UserRecord
from wrenn.control.auth import Account
from wrenn.control.db import Database, Transaction
from wrenn.control.identity import audit_actions
from wrenn.control.sessions import session_store
from wrenn.control.teams import TeamEnd, team_store
from wrenn.control.users import LastAdmin, User, user_store

CountSandboxes = Callable[[Sequence[TeamId]], Awaitable[Mapping[TeamId, int]]]
"""How many sandboxes of each team have not ended."""


class Administration:
    """See the module head. The caller is known to be an admin."""

    def __init__(self, *, database: Database, team_end: TeamEnd, count_sandboxes: CountSandboxes) -> None:
        self._database = database
        self._team_end = team_end
        self._count_sandboxes = count_sandboxes

    async def users(self, page: int) -> tuple[list[UserRecord], int]:
        """The users of a page, and how many there are."""
        return await admin_store.users_page(self._database, page)

    async def teams(self, page: int) -> tuple[list[tuple[TeamRecord, int]], int]:
        """The teams of a page with their sandboxes, and how many there are."""
        records, total = await admin_store.teams_page(self._database, page)
        counts = await self._count_sandboxes([record.team_id for record in records])
        return [(record, counts.get(record.team_id, 0)) for record in records], total

    async def set_active(self, admin: Account, text_id: str, *, active: bool) -> None:
        """Let a user in again, or not any more: sessions and the keys that the user made stop working at once.

        Raises:
            NotFound. InvalidRequest: oneself. LastAdmin.
        """
        user_id = UserId.parse(text_id)
        if user_id == admin.user_id and not active:
            raise InvalidRequest("You cannot deactivate yourself.")

        async def set_active(tx: Transaction) -> None:
            user = await self._locked(tx, user_id)
            if active is (user.status == "active"):
                return
            if not active:
                await self._expect_another_admin(tx, user)
                await session_store.end_all(tx, user_id)
            await user_store.set_status(tx, user_id, "active" if active else "disabled")
            deed = audit_actions.USER_ACTIVATED if active else audit_actions.USER_DEACTIVATED
            await audit_actions.of_platform(tx, admin.actor, deed, user_id)

        await self._database.transaction(set_active)

    async def set_admin(self, admin: Account, text_id: str, *, is_admin: bool) -> None:
        """Make a user an admin of the platform, or not any more.

        Raises:
            NotFound. LastAdmin.
        """
        user_id = UserId.parse(text_id)

        async def set_admin(tx: Transaction) -> None:
            user = await self._locked(tx, user_id)
            if is_admin is user.is_admin:
                return
            if not is_admin:
                await self._expect_another_admin(tx, user)
            await user_store.set_admin(tx, user_id, is_admin=is_admin)
            deed = audit_actions.ADMIN_GRANTED if is_admin else audit_actions.ADMIN_REVOKED
            await audit_actions.of_platform(tx, admin.actor, deed, user_id)

        await self._database.transaction(set_admin)

    async def enable_byoc(self, admin: Account, text_id: str, *, enabled: bool) -> None:
        """Let a team bring its own hosts, for good.

        Raises:
            InvalidRequest: to disable it. NotFound.
        """
        team_id = TeamId.parse(text_id)
        if not enabled:
            raise InvalidRequest("enabled: cannot be taken back, as the team's hosts depend on it.")

        async def enable(tx: Transaction) -> None:
            team = await team_store.lock(tx, team_id)
            if not team.is_byoc:
                await team_store.set_byoc(tx, team_id)
                await audit_actions.of_platform(tx, admin.actor, audit_actions.BYOC_ENABLED, team_id)

        await self._database.transaction(enable)

    async def delete_team(self, admin: Account, text_id: str) -> None:
        """End a team, with all that it has.

        Raises:
            NotFound.
        """
        team_id = TeamId.parse(text_id)

        async def delete(tx: Transaction) -> None:
            await team_store.lock(tx, team_id)
            await self._team_end.end(tx, team_id, by=admin.actor)
            await audit_actions.of_platform(tx, admin.actor, audit_actions.ANY_TEAM_DELETED, team_id)

        await self._database.transaction(delete)
        self._team_end.ended()

    async def _locked(self, tx: Transaction, user_id: UserId) -> User:
        await user_store.lock_admins(tx)
        user = await user_store.lock(tx, user_id)
        if user is None or user.status == "deleted":
            raise NotFound(f"There is no user {user_id}.")
        return user

    async def _expect_another_admin(self, tx: Transaction, user: User) -> None:
        if await user_store.is_last_admin(tx, user.user_id):
            raise LastAdmin("The platform would be without an admin: grant that to another user first.")
