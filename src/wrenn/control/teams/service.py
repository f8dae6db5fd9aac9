"""Teams and their members.

Every change holds the lock of its team and reads the role of who makes it under that lock, so that of two admins who remove
each other one does, and a team always has exactly one owner.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Final, TypeVar

from wrenn.base.errors import Forbidden, InvalidRequest, NotFound
from wrenn.base.ids import TeamId, UserId
from wrenn.control.audit import Actor, AuditAction, record
from wrenn.control.auth import Account, Member, hold_account
from wrenn.control.db import Database, Transaction
from wrenn.control.identity import Role, audit_actions, insert_team
from wrenn.control.quotas import QuotaExceeded
from wrenn.control.teams import team_store
from wrenn.control.teams.deletion import TeamDeletion
from wrenn.control.teams.team_store import Membership, Team
from wrenn.control.teams.types import PatchTeam
from wrenn.control.throttle import Subject, Throttle
from wrenn.control.users import user_store

T = TypeVar("T")

SEARCH_MIN_CHARACTERS: Final = 3
_SEARCH_LIMIT: Final = 10


RequireOwnerHasCapacity = Callable[[Transaction, TeamId], Awaitable[None]]
"""Raise QuotaExceeded if what a team has does not fit into the quotas of its owner, who is another in this transaction."""


class Teams:
    """Creates, changes and deletes teams and memberships, each change under the lock of its team."""

    def __init__(
        self,
        *,
        database: Database,
        throttle: Throttle,
        team_deletion: TeamDeletion,
        teams_per_user: int | None,
        require_owner_has_capacity: RequireOwnerHasCapacity,
    ) -> None:
        self._require_owner_has_capacity = require_owner_has_capacity
        self._database = database
        self._throttle = throttle
        self._team_deletion = team_deletion
        self._teams_per_user = teams_per_user

    async def list(self, account: Account) -> list[tuple[Team, Role]]:
        """Return the teams that the user belongs to, with the user's role in each."""
        return await team_store.of_user(self._database, account.user_id)

    async def create(self, account: Account, name: str) -> tuple[Team, Role]:
        """Create a team that the user owns.

        Raises:
            QuotaExceeded: the user owns as many teams as one may.
        """

        async def create(tx: Transaction) -> Team:
            await hold_account(tx, account)
            await self._require_capacity(tx, account.user_id)
            current = await user_store.current_team_of(tx, account.user_id)
            team_id = await insert_team(tx, account.user_id, name=name, is_default=current is None)
            await record(tx, team_id, account.actor, audit_actions.TEAM_CREATED, str(team_id))
            return await team_store.lock(tx, team_id)

        return await self._database.transaction(create), Role.OWNER

    async def get(self, member: Member, text_id: str) -> tuple[Team, list[Membership]]:
        """Return the team of the token, and its members."""
        team_id = own_team(member, text_id)
        team = await team_store.load(self._database, team_id)
        if team is None:
            raise NotFound(f"There is no team {team_id}.")
        return team, await team_store.members(self._database, team_id)

    async def members(self, member: Member, text_id: str) -> list[Membership]:
        """Return the members of the token's team."""
        return await team_store.members(self._database, own_team(member, text_id))

    async def patch(self, member: Member, text_id: str, body: PatchTeam) -> None:
        """Change the name of the team, or whether the API keys of removed members are revoked.

        Raises:
            Forbidden: not an admin.
        """

        async def patch(tx: Transaction, team: Team) -> None:
            changes: list[AuditAction] = []
            if body.name is not None and body.name != team.name:
                await team_store.rename(tx, team.team_id, body.name)
                changes.append(audit_actions.team_renamed(team.name, body.name))
            keeps = body.keys_of_removed == "keep"
            if body.keys_of_removed is not None and keeps != team.keeps_keys_of_removed:
                await team_store.set_keeps_keys_of_removed(tx, team.team_id, keeps=keeps)
                changes.append(audit_actions.keys_of_removed_set(body.keys_of_removed))
            for action in changes:
                await record(tx, team.team_id, member.actor, action, str(team.team_id))

        await self._change(member, text_id, expect_admin, patch)

    async def delete(self, member: Member, text_id: str) -> None:
        """Delete the team: its keys stop working at once, its sandboxes and templates are removed.

        Raises:
            Forbidden: not the owner.
        """

        async def delete(tx: Transaction, team: Team) -> None:
            await self._team_deletion.delete(tx, team.team_id, by=member.actor)

        await self._change(member, text_id, _expect_owner, delete)
        self._team_deletion.after_commit()

    async def set_role(self, member: Member, text_id: str, text_user_id: str, role: Role) -> None:
        """Change the role of a member who is not the owner.

        Raises:
            Forbidden: not an admin; of the owner. NotFound: no such member.
        """
        user_id = UserId.parse(text_user_id)

        async def set_role(tx: Transaction, team: Team) -> None:
            former = await _role_of_target(tx, team.team_id, user_id)
            if former is Role.OWNER:
                raise Forbidden("The owner's role changes only by a transfer of the team.")
            if role is not former:
                await team_store.set_role(tx, team.team_id, user_id, role)
                await record(tx, team.team_id, member.actor, audit_actions.role_updated(role), str(user_id))

        await self._change(member, text_id, expect_admin, set_role)

    async def remove(
        self, member: Member, text_id: str, text_user_id: str, *, revoke_keys: bool | None
    ) -> None:
        """Remove a member, and revoke the API keys that the member made; `revoke_keys` None: as the team's setting says.

        Raises:
            Forbidden: not an admin; of the owner. NotFound: no such member.
        """
        user_id = UserId.parse(text_user_id)

        async def remove(tx: Transaction, team: Team) -> None:
            if await _role_of_target(tx, team.team_id, user_id) is Role.OWNER:
                raise Forbidden("The owner cannot be removed: the owner transfers the team first.")
            await team_store.remove_member(tx, team.team_id, user_id)
            await record(tx, team.team_id, member.actor, audit_actions.MEMBER_REMOVED, str(user_id))
            if revoke_keys if revoke_keys is not None else not team.keeps_keys_of_removed:
                await revoke_keys_by(tx, team.team_id, user_id, member.actor)

        await self._change(member, text_id, expect_admin, remove)

    async def leave(self, member: Member, text_id: str) -> None:
        """Leave the team; the keys that the user made are revoked unless the team's setting keeps them.

        Raises:
            Forbidden: the owner.
        """

        def expect_no_owner(role: Role) -> None:
            if role is Role.OWNER:
                raise Forbidden("The owner cannot leave: transfer the team, or delete it.")

        async def leave(tx: Transaction, team: Team) -> None:
            await team_store.remove_member(tx, team.team_id, member.user_id)
            await record(tx, team.team_id, member.actor, audit_actions.MEMBER_LEFT, str(member.user_id))
            if not team.keeps_keys_of_removed:
                await revoke_keys_by(tx, team.team_id, member.user_id, member.actor)

        await self._change(member, text_id, expect_no_owner, leave)

    async def transfer(self, member: Member, text_id: str, text_user_id: str) -> None:
        """Make another member the owner; the former owner becomes an admin.

        Raises:
            Forbidden: not the owner. NotFound: no such member. InvalidRequest: to oneself.
            QuotaExceeded: that member owns as many teams as one may, or would have more in them than one owner may.
        """
        user_id = UserId.parse(text_user_id)

        async def transfer(tx: Transaction, team: Team) -> None:
            if user_id == member.user_id:
                raise InvalidRequest("user_id: is yours already.")
            await _role_of_target(tx, team.team_id, user_id)
            await self._require_capacity(tx, user_id)
            await team_store.set_role(tx, team.team_id, member.user_id, Role.ADMIN)
            await team_store.set_role(tx, team.team_id, user_id, Role.OWNER)
            await self._require_owner_has_capacity(tx, team.team_id)
            action = audit_actions.team_transferred(user_id)
            await record(tx, team.team_id, member.actor, action, str(team.team_id))

        await self._change(member, text_id, _expect_owner, transfer)

    async def search(self, account: Account, text: str) -> list[tuple[UserId, str]]:
        """Return users of the caller's teams whose e-mail address begins with the text, and the user whose address it is.

        Raises:
            InvalidRequest: too short. RateLimited: too many searches.
        """
        wanted = text.strip().lower()
        if len(wanted) < SEARCH_MIN_CHARACTERS:
            raise InvalidRequest(f"email: must have at least {SEARCH_MIN_CHARACTERS} characters.")
        await self._throttle.count_attempt(Subject.search(account.user_id))
        return await user_store.search(self._database, account.user_id, wanted, limit=_SEARCH_LIMIT)

    async def _require_capacity(self, tx: Transaction, user_id: UserId) -> None:
        """Lock the user and return if the user may own one more team."""
        await user_store.lock(tx, user_id)
        owned = await user_store.count_owned(tx, user_id)
        limit = self._teams_per_user
        if limit is not None and owned >= limit:
            raise QuotaExceeded(
                f"A user may own {limit} teams, and owns {owned}. Delete or transfer one, or ask an admin of the platform.",
                details={"quota": "teams", "limit": limit, "used": owned, "wanted": 1},
            )

    async def _change(
        self,
        member: Member,
        text_id: str,
        expect: Callable[[Role], None],
        change: Callable[[Transaction, Team], Awaitable[T]],
    ) -> T:
        """Run `change` under the lock of the token's team, after `expect` has accepted the caller's role."""
        team_id = own_team(member, text_id)

        async def work(tx: Transaction) -> T:
            team = await team_store.lock(tx, team_id)
            expect(await team_store.expect_member(tx, team_id, member.user_id))
            return await change(tx, team)

        return await self._database.transaction(work)


def own_team(member: Member, text_id: str) -> TeamId:
    """Parse the id of a team, which must be the token's team.

    Raises:
        InvalidRequest: not the id of a team. Forbidden: another team.
    """
    team_id = TeamId.parse(text_id)
    if team_id != member.team_id:
        raise Forbidden("The token is for another team: use switch-team first.")
    return team_id


def expect_admin(role: Role) -> None:
    """Return if this role may administer its team.

    Raises:
        Forbidden: it may not.
    """
    if not role.may_administer:
        raise Forbidden("This needs an admin or the owner of the team.")


def _expect_owner(role: Role) -> None:
    if role is not Role.OWNER:
        raise Forbidden("This needs the owner of the team.")


async def _role_of_target(tx: Transaction, team_id: TeamId, user_id: UserId) -> Role:
    role = await team_store.role_of(tx, team_id, user_id)
    if role is None:
        raise NotFound(f"The team has no member {user_id}.")
    return role


async def revoke_keys_by(tx: Transaction, team_id: TeamId, user_id: UserId, by: Actor) -> None:
    """Revoke the team's API keys that this user made, with entries in the audit log."""
    revoked = await team_store.revoke_keys_by(tx, team_id, user_id)
    if revoked:
        await record(tx, team_id, by, audit_actions.KEY_REVOKED, *map(str, revoked))
