"""Sessions: a short-lived token for requests, and a refresh token that can be used once.

A refresh token names its session and holds two secrets: the family's, which stays, and its own. A token of the family that is
not the valid one was used before: somebody has a copy, nobody knows who, so the session ends for both.

The next token of a family is derived from the one before. A browser that did not receive the answer to a refresh shows the same
token again, and for a few seconds gets the same answer.
"""

from __future__ import annotations

import hmac
import logging
import re
from dataclasses import dataclass
from typing import Final
from uuid import UUID

from wrenn.base.errors import NotFound, Unauthorized
from wrenn.base.ids import SessionId, TeamId, UserId, random_hex
from wrenn.base.secrets import Secret
from wrenn.control.auth import Account, AccountDeactivated, Claims, Tokens
from wrenn.control.db import Database, Transaction
from wrenn.control.identity import Role
from wrenn.control.sessions import session_store
from wrenn.control.teams import team_store
from wrenn.control.users import NoTeam, TeamRole, User, user_store

_log = logging.getLogger(__name__)

_FORM: Final = re.compile(r"wrr_([0-9a-f]{32})\.([0-9a-f]{32})\.([0-9a-f]{64})")
_OVER: Final = "The session has ended or is not known: log in again."
NO_TEAM: Final = "You belong to no team: ask a member of one to add you."


@dataclass(frozen=True, slots=True)
class RefreshToken:
    """The refresh token of a session, which browsers keep in a cookie."""

    session_id: SessionId
    family: Secret
    once: Secret

    @classmethod
    def parse(cls, text: str) -> RefreshToken:
        """Parse the text that `reveal` returns.

        Raises:
            Unauthorized: it has another form.
        """
        match = _FORM.fullmatch(text)
        if match is None:
            raise Unauthorized(_OVER)
        return cls(SessionId(UUID(match[1])), Secret(match[2]), Secret(match[3]))

    @classmethod
    def new(cls, session_id: SessionId) -> RefreshToken:
        """Create the first token of a new family."""
        return cls(session_id, Secret(random_hex(16)), Secret(random_hex(32)))

    def following(self, key: bytes) -> RefreshToken:
        """Return the next token of the family, always the same. Without the key nobody can tell it from this one."""
        once = hmac.digest(key, self.reveal().encode(), "sha256").hex()
        return RefreshToken(self.session_id, self.family, Secret(once))

    def reveal(self) -> str:
        """Return the text for the cookie."""
        return f"wrr_{self.session_id.value.hex}.{self.family.reveal()}.{self.once.reveal()}"


@dataclass(frozen=True, slots=True)
class SignedIn:
    """The tokens of a signed-in user. `refresh` None: the refresh token does not change. `visit` opens ports only."""

    token: Secret
    visit: Secret
    claims: Claims
    refresh: RefreshToken | None
    refresh_life_s: int


class Sessions:
    """Opens, refreshes, switches and ends the sessions of users."""

    def __init__(self, *, database: Database, tokens: Tokens, secret: Secret, life_s: int) -> None:
        """`secret`: the one that all replicas share."""
        self._database = database
        self._tokens = tokens
        # A key of its own, so that no other use of the secret yields a refresh token.
        self._key = hmac.digest(secret.reveal().encode(), b"wrenn refresh tokens", "sha256")
        self._life_s = life_s

    async def open(self, tx: Transaction, user: User) -> SignedIn:
        """Open a session of an active user in the default team, or else in the team joined first.

        Raises:
            NoTeam: there is none.
        """
        current = await user_store.current_team_of(tx, user.user_id)
        if current is None:
            raise NoTeam(NO_TEAM)
        refresh = RefreshToken.new(SessionId.new())
        await session_store.insert_session(
            tx,
            refresh.session_id,
            user_id=user.user_id,
            team_id=current.team_id,
            family_hash=refresh.family.sha256_hex(),
            refresh_hash=refresh.once.sha256_hex(),
            life_s=self._life_s,
        )
        return self._signed_in(user, current, refresh.session_id, refresh, self._life_s)

    async def refresh(self, cookie: str | None, team_id: str | None = None) -> SignedIn:
        """Return a new token, and a new refresh token in place of the one shown.

        With `team_id` the new token is for that team and the session stays in its own. If that is refused, the refresh token that
        was shown stays valid.

        Raises:
            Unauthorized: not a refresh token of a session that lasts. If it was used more than `REPEAT_S` ago, or a later one was
                used since, the session ends.
            AccountDeactivated, NoTeam. InvalidRequest, NotFound: no such team. Forbidden: the user is not a member.
        """
        shown = RefreshToken.parse(cookie or "")
        wanted = None if team_id is None else TeamId.parse(team_id)
        following = shown.following(self._key)

        async def rotate(tx: Transaction) -> SignedIn | None:
            rotated = await session_store.rotate(
                tx,
                shown.session_id,
                family_hash=shown.family.sha256_hex(),
                old_hash=shown.once.sha256_hex(),
                new_hash=following.once.sha256_hex(),
            )
            if rotated is None:
                if await session_store.end_family(
                    tx, shown.session_id, family_hash=shown.family.sha256_hex()
                ):
                    _log.warning(
                        "a used refresh token was shown again: its session was ended",
                        extra={"session_id": str(shown.session_id)},
                    )
                return None
            user = await user_store.lock(tx, rotated.user_id)
            if user is None or user.status == "deleted":
                return None
            if user.status != "active":
                raise AccountDeactivated("Your account was deactivated by an admin of the platform.")
            if wanted is not None:
                chosen = await _role_in(tx, wanted, user.user_id)
                return self._signed_in(user, chosen, shown.session_id, following, rotated.life_s)
            current = await user_store.current_team_of(tx, user.user_id, rotated.team_id)
            if current is None:
                raise NoTeam(NO_TEAM)
            if current.team_id != rotated.team_id:
                await session_store.set_team(tx, shown.session_id, current.team_id)
            return self._signed_in(user, current, shown.session_id, following, rotated.life_s)

        # Not raised inside: the end of a session must be committed.
        signed_in = await self._database.transaction(rotate)
        if signed_in is None:
            raise Unauthorized(_OVER)
        return signed_in

    async def switch(self, account: Account, text_id: str) -> SignedIn:
        """Move the session to another team of the user and return a token for it.

        Raises:
            InvalidRequest, NotFound: no such team. Forbidden: the user is not a member.
        """
        team_id = TeamId.parse(text_id)

        async def switch(tx: Transaction) -> SignedIn:
            chosen = await _role_in(tx, team_id, account.user_id)
            await session_store.set_team(tx, account.session_id, team_id)
            user = await user_store.load(tx, account.user_id)
            return self._signed_in(user, chosen, account.session_id, None, 0)

        return await self._database.transaction(switch)

    async def again(self, tx: Transaction, session_id: SessionId, user: User, team_id: TeamId) -> SignedIn:
        """Return a token of a valid session after the user changed, for this team or else for another of the user's teams."""
        current = await user_store.current_team_of(tx, user.user_id, team_id)
        if current is None:
            raise NoTeam(NO_TEAM)
        return self._signed_in(user, current, session_id, None, 0)

    async def end(self, *, session_id: SessionId | None = None, cookie: str | None = None) -> None:
        """End the session of a token, of a refresh token, or of both. Does nothing if it has ended."""

        async def end(tx: Transaction) -> None:
            if session_id is not None:
                await session_store.end(tx, session_id)
            if cookie is not None and _FORM.fullmatch(cookie):
                shown = RefreshToken.parse(cookie)
                await session_store.end_family(tx, shown.session_id, family_hash=shown.family.sha256_hex())

        await self._database.transaction(end)

    def _signed_in(
        self,
        user: User,
        current: TeamRole,
        session_id: SessionId,
        refresh: RefreshToken | None,
        life_s: int,
    ) -> SignedIn:
        claims = Claims(
            user_id=user.user_id,
            team_id=current.team_id,
            session_id=session_id,
            role=Role(current.role),
            email=user.email,
            name=user.name,
            is_admin=user.is_admin,
        )
        return SignedIn(
            token=Secret(self._tokens.issue(claims)),
            visit=Secret(self._tokens.issue_visit(claims)),
            claims=claims,
            refresh=refresh,
            refresh_life_s=life_s,
        )


async def _role_in(tx: Transaction, team_id: TeamId, user_id: UserId) -> TeamRole:
    if not await team_store.exists(tx, team_id):
        raise NotFound(f"There is no team {team_id}.")
    return TeamRole(team_id, await team_store.expect_member(tx, team_id, user_id))
