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
from wrenn.control.teams import TeamDeletion, team_store
from wrenn.control.users import EmailNotVerified, LastAdmin, User, user_store

CountSandboxes = Callable[[Sequence[TeamId]], Awaitable[Mapping[TeamId, int]]]
"""How many sandboxes of each team have not ended."""


class Administration:
    """Lists users and teams for admins of the platform, and changes their status. The caller is known to be an admin."""

    def __init__(
        self, *, database: Database, team_deletion: TeamDeletion, count_sandboxes: CountSandboxes
    ) -> None:
        self._database = database
        self._team_deletion = team_deletion
        self._count_sandboxes = count_sandboxes

    async def users(self, page: int) -> tuple[list[UserRecord], int]:
        """Return one page of users, and how many users there are."""
        return await admin_store.users_page(self._database, page)

    async def teams(self, page: int) -> tuple[list[tuple[TeamRecord, int]], int]:
        """Return one page of teams with their numbers of sandboxes, and how many teams there are."""
        records, total = await admin_store.teams_page(self._database, page)
        counts = await self._count_sandboxes([record.team_id for record in records])
        return [(record, counts.get(record.team_id, 0)) for record in records], total

    async def set_active(self, admin: Account, text_id: str, *, active: bool) -> None:
        """Activate or deactivate a user. The sessions and API keys of a deactivated user stop working at once.

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
            action = audit_actions.USER_ACTIVATED if active else audit_actions.USER_DEACTIVATED
            await audit_actions.record_for_platform(tx, admin.actor, action, user_id)

        await self._database.transaction(set_active)

    async def set_admin(
        self, admin: Account, text_id: str, *, is_admin: bool, accept_unverified: bool
    ) -> None:
        """Grant or revoke that a user is an admin of the platform.

        Raises:
            NotFound. LastAdmin. EmailNotVerified: unless it is accepted.
        """
        user_id = UserId.parse(text_id)

        async def set_admin(tx: Transaction) -> None:
            user = await self._locked(tx, user_id)
            if is_admin is user.is_admin:
                return
            if not is_admin:
                await self._expect_another_admin(tx, user)
            elif not user.is_email_verified and not accept_unverified:
                raise EmailNotVerified(
                    f"Nobody has verified that this account belongs to the owner of {user.email}. "
                    "Ask them to verify the address, or set accept_unverified if you know whose account it is."
                )
            await user_store.set_admin(tx, user_id, is_admin=is_admin)
            action = audit_actions.ADMIN_GRANTED if is_admin else audit_actions.ADMIN_REVOKED
            await audit_actions.record_for_platform(tx, admin.actor, action, user_id)

        await self._database.transaction(set_admin)

    async def enable_byoc(self, admin: Account, text_id: str, *, enabled: bool) -> None:
        """Allow a team to bring its own hosts, which cannot be taken back.

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
                await audit_actions.record_for_platform(tx, admin.actor, audit_actions.BYOC_ENABLED, team_id)

        await self._database.transaction(enable)

    async def delete_team(self, admin: Account, text_id: str) -> None:
        """Delete a team with everything that belongs to it.

        Raises:
            NotFound.
        """
        team_id = TeamId.parse(text_id)

        async def delete(tx: Transaction) -> None:
            await team_store.lock(tx, team_id)
            await self._team_deletion.delete(tx, team_id, by=admin.actor)
            await audit_actions.record_for_platform(tx, admin.actor, audit_actions.ANY_TEAM_DELETED, team_id)

        await self._database.transaction(delete)
        self._team_deletion.after_commit()

    async def _locked(self, tx: Transaction, user_id: UserId) -> User:
        await user_store.lock_admins(tx)
        user = await user_store.lock(tx, user_id)
        if user is None or user.status == "deleted":
            raise NotFound(f"There is no user {user_id}.")
        return user

    async def _expect_another_admin(self, tx: Transaction, user: User) -> None:
        if await user_store.is_last_admin(tx, user.user_id):
            raise LastAdmin("The platform would be without an admin: grant that to another user first.")
