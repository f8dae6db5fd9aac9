"""The caller's own account: name, password, linked providers, deletion."""

from __future__ import annotations

from dataclasses import dataclass

from wrenn.base.errors import Conflict, InvalidRequest, NotFound, Unauthorized
from wrenn.base.secrets import Secret
from wrenn.control.account_mail import AccountMails, Purpose
from wrenn.control.audit import record
from wrenn.control.auth import Account, Member
from wrenn.control.db import Database, Transaction
from wrenn.control.identity import audit_actions
from wrenn.control.profile.types import ChangePassword
from wrenn.control.sessions import Sessions, SignedIn, session_store
from wrenn.control.teams import TeamDeletion, revoke_keys_by
from wrenn.control.throttle import Subject, Throttle
from wrenn.control.users import (
    LastAdmin,
    LastLoginMethod,
    OwnsTeamWithMembers,
    Passwords,
    User,
    WrongPassword,
    user_store,
)


@dataclass(frozen=True, slots=True)
class Profile:
    """A user's own account, with the linked sign-in providers."""

    user: User
    providers: list[str]


class Profiles:
    """Reads and changes the caller's own account, and deletes it."""

    def __init__(
        self,
        *,
        database: Database,
        passwords: Passwords,
        sessions: Sessions,
        throttle: Throttle,
        mails: AccountMails,
        team_deletion: TeamDeletion,
    ) -> None:
        self._database = database
        self._passwords = passwords
        self._sessions = sessions
        self._throttle = throttle
        self._mails = mails
        self._team_deletion = team_deletion

    async def get(self, account: Account) -> Profile:
        """Return the caller's account."""
        user = await user_store.find(self._database, account.user_id)
        return Profile(user, await user_store.providers_of(self._database, account.user_id))

    async def rename(self, member: Member, name: str) -> SignedIn:
        """Change the name, and return a token that carries it."""

        async def rename(tx: Transaction) -> SignedIn:
            await user_store.set_name(tx, member.user_id, name)
            user = await user_store.load(tx, member.user_id)
            return await self._sessions.again(tx, member.account.session_id, user, member.team_id)

        return await self._database.transaction(rename)

    async def change_password(self, account: Account, body: ChangePassword) -> None:
        """Change or set the password; the user's other sessions end.

        Raises:
            WrongPassword: the current one is another. InvalidRequest: the first one was not confirmed.
            RateLimited: too many tries.
        """
        async with self._passwords.turn():
            user = await user_store.find(self._database, account.user_id)
            tries = Subject.account(user.email)
            if user.password_hash is None:
                if body.confirm_password != body.new_password:
                    raise InvalidRequest("confirm_password: must be the same as new_password.")
            else:
                await self._throttle.count_attempt(tries)
                current = Secret(body.current_password or "")
                if not await self._passwords.verify(current, user.password_hash):
                    raise WrongPassword("current_password: is not the password of this account.")
            new_hash = await self._passwords.hash(Secret(body.new_password))

            async def change(tx: Transaction) -> None:
                now = await user_store.lock(tx, account.user_id)
                if now is None or now.password_hash != user.password_hash:
                    raise WrongPassword("The password was changed in this moment: log in again.")
                await user_store.set_password(tx, account.user_id, new_hash)
                await session_store.end_all(tx, account.user_id, but=account.session_id)
                await self._mails.void(tx, account.user_id, Purpose.RESET, Purpose.SIGN_IN)
                await self._throttle.succeeded(tx, tries)

            await self._database.transaction(change)

    async def unlink(self, account: Account, provider: str) -> None:
        """Remove the link to a sign-in provider.

        Raises:
            NotFound: not linked. LastLoginMethod: there is no other way in.
        """

        async def unlink(tx: Transaction) -> None:
            user = await user_store.lock(tx, account.user_id)
            if user is None or not await user_store.unlink(tx, account.user_id, provider):
                raise NotFound(f"Your account is not linked to {provider}.")
            if user.password_hash is None and await user_store.count_links(tx, account.user_id) == 0:
                raise LastLoginMethod("This is the only way into your account: set a password first.")

        await self._database.transaction(unlink)

    async def delete(self, account: Account, confirmation: str) -> None:
        """Delete the account: its sessions, memberships, and the teams that have no other member, with everything in them.

        Raises:
            InvalidRequest: not confirmed. OwnsTeamWithMembers, LastAdmin: others depend on it. Conflict: the user joined a team meanwhile.
        """
        if confirmation != account.email:
            raise InvalidRequest("confirmation: must be the e-mail address of your account.")

        async def delete(tx: Transaction) -> None:
            await user_store.lock_admins(tx)
            # Before the user, in the order of all who change a membership: so nobody transfers a team to this user meanwhile.
            locked = await user_store.lock_teams(tx, account.user_id)
            user = await user_store.lock(tx, account.user_id)
            if user is None or user.status != "active":
                raise Unauthorized("The account is gone.")
            if not set(await user_store.teams_of(tx, account.user_id)) <= set(locked):
                raise Conflict("You joined another team while the account was being deleted. Try again.")
            if await user_store.is_last_admin(tx, account.user_id):
                raise LastAdmin("You are the only admin of the platform: grant that to another user first.")
            for team_id, has_others in await user_store.owned_teams(tx, account.user_id):
                if has_others:
                    raise OwnsTeamWithMembers(
                        f"You own the team {team_id}, which has other members: transfer or delete it first."
                    )
                await self._team_deletion.delete(tx, team_id, by=account.actor)
            await session_store.end_all(tx, account.user_id)
            await self._mails.void(tx, account.user_id, *Purpose)
            for team_id, keeps_keys in await user_store.erase(tx, account.user_id):
                await record(tx, team_id, account.actor, audit_actions.MEMBER_LEFT, str(account.user_id))
                if not keeps_keys:
                    await revoke_keys_by(tx, team_id, account.user_id, account.actor)
            await audit_actions.record_for_platform(
                tx, account.actor, audit_actions.ACCOUNT_DELETED, account.user_id
            )

        await self._database.transaction(delete)
        self._team_deletion.after_commit()
