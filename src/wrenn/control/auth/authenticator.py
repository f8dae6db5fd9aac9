"""Looks up callers by their credential, in one query."""

from __future__ import annotations

from wrenn.base.errors import Forbidden
from wrenn.control.auth.caller import Account, Caller, Member, account_of, caller_of, member_of
from wrenn.control.auth.credential import Credential, UserToken
from wrenn.control.auth.last_used import LastUsed
from wrenn.control.auth.store import find_caller
from wrenn.control.db import Database


class Authenticator:
    """Looks up the caller that a credential belongs to, in one query. All methods raise as `caller_of`."""

    def __init__(self, database: Database, last_used: LastUsed) -> None:
        self._database = database
        self._last_used = last_used

    async def identify(self, credential: Credential) -> Caller:
        """Return the caller and the team it acts for."""
        return self.accept(caller_of(credential, await find_caller(self._database, credential)))

    def accept(self, caller: Caller) -> Caller:
        """Note the use of an API key by a caller that another query has identified."""
        if caller.key_id is not None:
            self._last_used.note(caller.key_id)
        return caller

    async def member(self, token: UserToken) -> Member:
        """Return the calling user as a member of the token's team."""
        return member_of(await find_caller(self._database, token))

    async def account(self, token: UserToken) -> Account:
        """Return the calling user, whether or not the token's team still exists."""
        return account_of(await find_caller(self._database, token))

    async def admin(self, token: UserToken) -> Account:
        """Return the calling user, who must be an admin of the platform.

        Raises:
            Forbidden: not an admin.
        """
        account = await self.account(token)
        if not account.is_admin:
            raise Forbidden("This needs an admin of the platform.")
        return account
