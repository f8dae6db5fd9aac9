"""Removes what says nothing any more: sessions that are over, attempts that are long ago."""

from __future__ import annotations

import asyncio
import logging
from typing import Final

from wrenn.base.errors import DatabaseUnavailable
from wrenn.control.accounts import attempt_store, session_store
from wrenn.control.db import Database

_log = logging.getLogger(__name__)

_EVERY_S: Final = 600.0
_ATTEMPTS_OLD_S: Final = 86_400.0
_SESSIONS_OLD_S: Final = 7 * 86_400.0


async def sweep_forever(database: Database) -> None:
    """Sweep now and then, until cancelled. Several replicas may do so."""
    while True:
        try:
            await attempt_store.forget_old(database, older_s=_ATTEMPTS_OLD_S)
            await session_store.forget_old(database, older_s=_SESSIONS_OLD_S)
        except DatabaseUnavailable as error:
            _log.warning("old sessions are not swept", extra={"cause": error.message})
        await asyncio.sleep(_EVERY_S)
