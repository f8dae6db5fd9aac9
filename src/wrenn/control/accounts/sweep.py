"""Deletes ended sessions, old attempts and expired invitations."""

from __future__ import annotations

from typing import Final

from wrenn.base.tasks import repeat
from wrenn.control.accounts import attempt_store, invitation_store, session_store
from wrenn.control.db import Database

_EVERY_S: Final = 600.0
_ATTEMPTS_OLD_S: Final = 86_400.0
_SESSIONS_OLD_S: Final = 7 * 86_400.0
_INVITATIONS_OLD_S: Final = 0.0


async def sweep_forever(database: Database) -> None:
    """Sweep now and then, until cancelled. Several replicas may do so."""

    async def sweep() -> None:
        await attempt_store.forget_old(database, older_s=_ATTEMPTS_OLD_S)
        await session_store.forget_old(database, older_s=_SESSIONS_OLD_S)
        await invitation_store.forget_old(database, older_s=_INVITATIONS_OLD_S)

    await repeat(sweep, every_s=_EVERY_S, failed="old sessions are not swept")
