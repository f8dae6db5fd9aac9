"""Deletes ended sessions, old attempts, expired invitations, links for downloads and tokens of users and hosts, builds, and mails that are too old to be sent."""

from __future__ import annotations

import logging
from typing import Final

from wrenn.base.loops import Loop
from wrenn.control import mail
from wrenn.control.account_mail import token_store
from wrenn.control.builds import layer_store as build_layer_store
from wrenn.control.builds import store as build_store
from wrenn.control.db import Database
from wrenn.control.guests import download_store
from wrenn.control.hosts import credential_store
from wrenn.control.sessions import session_store
from wrenn.control.teams import invitation_store
from wrenn.control.throttle import attempt_store

_log = logging.getLogger(__name__)

_EVERY_S: Final = 600.0
_ATTEMPTS_OLD_S: Final = 86_400.0
_SESSIONS_OLD_S: Final = 7 * 86_400.0
_INVITATIONS_OLD_S: Final = 0.0
_REQUESTS_OLD_S: Final = 3600.0
_BUILDS_OLD_S: Final = 30 * 86_400.0
_BUILDS_OF_TEAM: Final = 100
"""Ended builds of a team that are kept: those that its list shows."""


class Cleanup:
    """Deletes expired rows at an interval. Any number of replicas may do it."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self.loop = Loop("delete expired rows")

    async def run(self) -> None:
        """Delete expired rows at an interval, until cancelled."""
        await self.loop.run(self._clean_up, every_s=_EVERY_S)

    async def _clean_up(self) -> None:
        database = self._database
        await attempt_store.forget_old(database, older_s=_ATTEMPTS_OLD_S)
        await session_store.forget_old(database, older_s=_SESSIONS_OLD_S)
        await invitation_store.forget_old(database, older_s=_INVITATIONS_OLD_S)
        await credential_store.delete_expired(database)
        await download_store.delete_expired(database)
        await token_store.forget_old(database, requests_older_s=_REQUESTS_OLD_S)
        await build_store.delete_old(database, older_s=_BUILDS_OLD_S, most_of_team=_BUILDS_OF_TEAM)
        await build_layer_store.remove_old(database)
        if given_up := await mail.drop_expired(database):
            _log.warning("mails were given up", extra={"by_kind": dict(given_up)})
