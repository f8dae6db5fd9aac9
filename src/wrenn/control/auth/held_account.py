"""Holds the account of a request that gives lasting access, so that what ends the session also ends that access."""

from __future__ import annotations

from typing import Final

from sqlalchemy import bindparam, select

from wrenn.base.errors import Unauthorized
from wrenn.control.auth.caller import SESSION_OVER, Account
from wrenn.control.auth.store import SESSION_LASTS
from wrenn.control.db import Transaction
from wrenn.control.identity import sessions, users

_HOLD: Final = (
    select(users.c.status).where(users.c.id == bindparam("user_id")).with_for_update(key_share=True)
)
_SESSION: Final = select(sessions.c.id).where(
    sessions.c.id == bindparam("session_id"), sessions.c.user_id == bindparam("user_id"), SESSION_LASTS
)


async def hold_account(tx: Transaction, account: Account) -> None:
    """Lock the user until this transaction ends, and return if user and session are still valid.

    A password reset and the end of an account lock the user too. So what this transaction inserts (an API key, a membership, a link
    to a provider) is either there when they look for it, or is refused here. A caller that locks teams too locks them before.

    Raises:
        Unauthorized: the session has ended since the request came in.
    """
    values = {"user_id": account.user_id.value, "session_id": account.session_id.value}
    status = (await tx.execute(_HOLD, {"user_id": values["user_id"]})).scalar_one_or_none()
    # A statement of its own: one that waits for a row does not see what was committed meanwhile in other tables.
    found = await tx.execute(_SESSION, values)
    if status != "active" or found.one_or_none() is None:
        raise Unauthorized(SESSION_OVER)
