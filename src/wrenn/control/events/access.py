"""Looks again and again whether those who read events still may: a revoked key's stream ends within seconds."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Generator
from contextlib import contextmanager
from typing import Final

from wrenn.base.errors import Forbidden, Unauthorized
from wrenn.control.audit.scopes import scopes_of
from wrenn.control.auth import Authenticator, Credential
from wrenn.control.events.subscription import Ended, Subscription

_log = logging.getLogger(__name__)

_EVERY_S: Final = 2.0
_AT_ONCE: Final = 4
"""Queries at once: those who wait for answers go first."""


class Access:
    """See the module head. One query for each credential, however many streams it has."""

    def __init__(self, authenticator: Authenticator) -> None:
        self._authenticator = authenticator
        self._watched: dict[Credential, set[Subscription]] = {}

    @contextmanager
    def watched(self, credential: Credential, subscription: Subscription) -> Generator[None]:
        """End the subscription when the credential is not valid any more."""
        self._watched.setdefault(credential, set()).add(subscription)
        try:
            yield
        finally:
            subscriptions = self._watched[credential]
            subscriptions.discard(subscription)
            if not subscriptions:
                del self._watched[credential]

    async def run(self) -> None:
        """Look until cancelled."""
        while True:
            await asyncio.sleep(_EVERY_S)
            try:
                await self.look_once()
            except Exception:  # noqa: BLE001 - the loop must go on; without a database nothing is sent anyway
                _log.exception("the credentials of event streams could not be looked at")

    async def look_once(self) -> None:
        """Look at all now."""
        turns = asyncio.Semaphore(_AT_ONCE)

        async def look(credential: Credential) -> None:
            async with turns:
                await self._look(credential)

        await asyncio.gather(*(look(credential) for credential in list(self._watched)))

    async def _look(self, credential: Credential) -> None:
        try:
            caller = await self._authenticator.identify(credential)
        except (Unauthorized, Forbidden):
            allowed = None
        else:
            allowed = caller.team_id, scopes_of(caller)
        for subscription in list(self._watched.get(credential, ())):
            if allowed != (subscription.audience.team_id, subscription.audience.scopes):
                subscription.end(Ended.REFUSED)
