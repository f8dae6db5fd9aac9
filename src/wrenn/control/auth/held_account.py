"""Holds the account of a request that gives lasting access, so that what ends the session also ends that access."""

from __future__ import annotations

from wrenn.base.errors import Unauthorized
from wrenn.control.auth.caller import SESSION_OVER, Account
from wrenn.control.auth.store import hold_session
from wrenn.control.db import Transaction


async def hold_account(tx: Transaction, account: Account) -> None:
    """Lock the user until this transaction ends, and return if user and session are still valid.

    A password reset and the end of an account lock the user too. So what this transaction inserts (an API key, a membership, a link
    to a provider) is either there when they look for it, or is refused here. A caller that locks teams too locks them before.

    Raises:
        Unauthorized: the session has ended since the request came in.
    """
    if not await hold_session(tx, account.user_id, account.session_id):
        raise Unauthorized(SESSION_OVER)
