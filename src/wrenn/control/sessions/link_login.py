"""Login with a link that the operator made on the server: no password needs to be typed into a terminal."""

from __future__ import annotations

from wrenn.control.account_mail import Purpose, find_token
from wrenn.control.db import Database, Transaction
from wrenn.control.identity import audit_actions
from wrenn.control.sessions.service import Sessions, SignedIn
from wrenn.control.throttle import Subject, Throttle


class LinkLogin:
    """Logs users in with the token of a sign-in link."""

    def __init__(self, *, database: Database, sessions: Sessions, throttle: Throttle) -> None:
        self._database = database
        self._sessions = sessions
        self._throttle = throttle

    async def log_in(self, token: str, address: str) -> SignedIn:
        """Use up the token and open a session of its user.

        Raises:
            NotFound: not a valid token. RateLimited: too many attempts from this address. NoTeam.
        """
        source = Subject.address(address)
        await self._throttle.count_attempt(source)
        shown = await find_token(self._database, Purpose.SIGN_IN, token)

        async def enter(tx: Transaction) -> SignedIn:
            user = await shown.use(tx)
            actor = audit_actions.user_actor(user.user_id, user.name)
            await audit_actions.record_for_platform(tx, actor, audit_actions.SIGNED_IN_BY_LINK, user.user_id)
            await self._throttle.uncount(tx, source)
            return await self._sessions.open(tx, user)

        return await self._database.transaction(enter)
