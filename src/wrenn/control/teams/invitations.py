"""Invitations: the only way into a team that somebody else owns.

An admin cannot make a user a member directly, because the user's address may not be verified. The admin creates an invitation, whose
token only the invited person should get; the user with the invited address accepts it with that token. The response does not reveal
whether the address has an account.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

from wrenn.base.errors import Conflict, Forbidden, InvalidRequest, NotFound
from wrenn.base.ids import InvitationId, random_hex
from wrenn.base.secrets import Secret
from wrenn.control.account_mail import AccountMails
from wrenn.control.audit import record
from wrenn.control.auth import Account, Member, hold_account
from wrenn.control.db import Database, Transaction
from wrenn.control.identity import Role, audit_actions
from wrenn.control.teams import invitation_store, team_store
from wrenn.control.teams.invitation_store import Invitation
from wrenn.control.teams.service import expect_admin, own_team
from wrenn.control.teams.team_store import Team
from wrenn.control.throttle import Subject, Throttle
from wrenn.control.users import user_store

INVITATION_LIFETIME_S: Final = 7 * 86_400
INVITATIONS_LIMIT: Final = 100
"""Invitations of one team. Only a program that invites a list of addresses needs more."""
_TOKEN_PATTERN: Final = re.compile(r"wri_[0-9a-f]{64}")
_GONE: Final = (
    "This invitation cannot be accepted: it was used, revoked or replaced by a newer one, or has expired."
)


@dataclass(frozen=True, slots=True)
class Invited:
    """A new invitation, its token, and whether it is sent by mail."""

    invitation: Invitation
    token: Secret
    is_mailed: bool


class Invitations:
    """Creates, lists, revokes and accepts invitations into teams."""

    def __init__(self, *, database: Database, throttle: Throttle, mails: AccountMails) -> None:
        self._database = database
        self._throttle = throttle
        self._mails = mails

    async def invite(self, member: Member, text_id: str, email: str) -> Invited:
        """Invite this address, in place of an earlier invitation. Where mail is configured the link is sent to it.

        Raises:
            Forbidden: not an admin. InvalidRequest: is a member. Conflict: the team has too many invitations.
            RateLimited: too many from this user.
        """
        team_id = own_team(member, text_id)
        await self._throttle.count_attempt(Subject.invitations(member.user_id))
        token = Secret(f"wri_{random_hex(32)}")

        async def invite(tx: Transaction) -> Invited:
            team = await team_store.lock(tx, team_id)
            expect_admin(await team_store.expect_member(tx, team_id, member.user_id))
            await hold_account(tx, member.account)
            if await team_store.has_member(tx, team_id, email):
                raise InvalidRequest("email: is a member of this team already.")
            if await invitation_store.count_others(tx, team_id, email) >= INVITATIONS_LIMIT:
                raise Conflict(f"The team has {INVITATIONS_LIMIT} invitations: revoke some first.")
            made = await invitation_store.upsert(
                tx,
                team_id,
                email=email,
                token_hash=token.sha256_hex(),
                invited_by=member.user_id,
                life_s=INVITATION_LIFETIME_S,
            )
            await record(
                tx, team_id, member.actor, audit_actions.member_invited(email), str(made.invitation_id)
            )
            is_mailed = await self._mails.invite(
                tx, team_id, email, token=token, team_name=team.name, inviter_name=member.account.name
            )
            return Invited(made, token, is_mailed=is_mailed)

        return await self._database.transaction(invite)

    async def list(self, member: Member, text_id: str) -> list[Invitation]:
        """Return the invitations of the token's team that can be accepted, newest first.

        Raises:
            Forbidden: not an admin.
        """
        expect_admin(member.role)
        return await invitation_store.of_team(self._database, own_team(member, text_id))

    async def revoke(self, member: Member, text_id: str, text_invitation_id: str) -> None:
        """Revoke an invitation; does nothing if there is no such invitation.

        Raises:
            Forbidden: not an admin.
        """
        team_id, invitation_id = own_team(member, text_id), InvitationId.parse(text_invitation_id)

        async def revoke(tx: Transaction) -> None:
            await team_store.lock(tx, team_id)
            expect_admin(await team_store.expect_member(tx, team_id, member.user_id))
            email = await invitation_store.remove(tx, team_id, invitation_id)
            if email is not None:
                await self._mails.uninvite(tx, team_id, email)
                action = audit_actions.invitation_revoked(email)
                await record(tx, team_id, member.actor, action, str(invitation_id))

        await self._database.transaction(revoke)

    async def accept(self, account: Account, token: str) -> tuple[Team, Role]:
        """Join the team of an invitation of the account's own address. The token works once.

        Raises:
            NotFound: no invitation that can be accepted. Forbidden: it is for another address.
        """
        if _TOKEN_PATTERN.fullmatch(token) is None:
            raise NotFound(_GONE)
        token_hash = Secret(token).sha256_hex()

        async def accept(tx: Transaction) -> Team:
            shown = await invitation_store.find(tx, token_hash)
            if shown is None:
                raise NotFound(_GONE)
            user = await user_store.load(tx, account.user_id)
            if user.email != shown.email:
                raise Forbidden("This invitation is for another e-mail address: log in with that one.")
            team = await team_store.lock(tx, shown.team_id)
            await hold_account(tx, account)
            # Again under the lock: it may have been used or revoked, or the inviter removed, since the first query.
            if await invitation_store.find(tx, token_hash) is None:
                raise NotFound(_GONE)
            await invitation_store.remove(tx, team.team_id, shown.invitation_id)
            if await user_store.add_member(tx, team.team_id, account.user_id):
                action = audit_actions.member_added(user.email, Role.MEMBER, invited_by=shown.invited_by)
                await record(tx, team.team_id, account.actor, action, str(account.user_id))
            return team

        team = await self._database.transaction(accept)
        return team, Role.MEMBER
