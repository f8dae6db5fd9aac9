"""Registry of long-lasting calls, each with the credential that it was opened with.

A request is authorised once, by the query that finds its sandbox. A terminal, a transfer or an event stream may outlast the
authorisation. So this registry checks the credentials of open calls again, all in one query, when a trigger of the database notifies
that some changed, and by a timer. It ends the calls whose credential no longer allows them. Links need no credential and are not
registered; public ports are looked at by `proxy/public_visits.py`.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Callable, Generator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from typing import Final

from wrenn.base.errors import AccessLost, Forbidden, Unauthorized
from wrenn.control.auth.caller import Caller, caller_of
from wrenn.control.auth.credential import Credential
from wrenn.control.auth.store import find_callers
from wrenn.control.auth.watched_calls import WatchedCalls
from wrenn.control.db import Database

_log = logging.getLogger(__name__)

CHANNEL: Final = "wrenn_access"
"""Channel that triggers notify when a key, session, user, membership or team changes so that somebody may lose access."""


@dataclass(eq=False, slots=True)
class _OpenCall:
    is_allowed: Callable[[Caller], bool]
    end: Callable[[AccessLost], None]


@asynccontextmanager
async def endable() -> AsyncGenerator[Callable[[AccessLost], None]]:
    """Yield a function that cancels the body. Only its first call counts.

    Raises:
        AccessLost: what the function was called with.
    """
    refusal: AccessLost | None = None
    limit = asyncio.timeout(None)

    def end(error: AccessLost) -> None:
        nonlocal refusal
        if refusal is None:
            refusal = error
            limit.reschedule(asyncio.get_running_loop().time())

    try:
        async with limit:
            yield end
    except TimeoutError as error:
        if refusal is None or not limit.expired():
            raise
        raise refusal from error


class OpenCalls:
    """The long-lasting calls of this replica, ended when their credential is no longer valid."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._calls = WatchedCalls[Credential, _OpenCall]("look at open calls", self._check)
        self.loop = self._calls.loop

    def wake(self, _payload: str = "") -> None:
        """Check the credentials soon: some may have become invalid."""
        self.loop.wake()

    @asynccontextmanager
    async def while_allowed(self, credential: Credential, caller: Caller) -> AsyncGenerator[None]:
        """Run the body and cancel it once the credential is no longer valid for the caller's team and scope.

        Raises:
            AccessLost: the credential no longer allows the call. The body was cancelled.
        """

        def still_allowed(now: Caller) -> bool:
            return (now.team_id, now.scope) == (caller.team_id, caller.scope)

        async with endable() as end:
            with self.watched(credential, still_allowed, end):
                yield

    @contextmanager
    def watched(
        self, credential: Credential, is_allowed: Callable[[Caller], bool], end: Callable[[AccessLost], None]
    ) -> Generator[None]:
        """While the body runs, call `end` once the credential is not valid or `is_allowed` refuses its caller.

        `end` may be called again until the body is left.
        """
        with self._calls.registered(credential, _OpenCall(is_allowed, end)):
            yield

    async def run(self) -> None:
        """Check the credentials of open calls at an interval and when woken, until cancelled."""
        await self._calls.run()

    async def check_once(self) -> None:
        """Check all credentials now, and end the calls that are no longer allowed."""
        await self._calls.check_once()

    async def _check(self, credentials: Sequence[Credential]) -> None:
        found = await find_callers(self._database, credentials)
        for credential in credentials:
            self._end_disallowed(credential, found.get(credential))

    def _end_disallowed(self, credential: Credential, row: object) -> None:
        calls = self._calls.of(credential)
        try:
            caller = caller_of(credential, row)
        except (Unauthorized, Forbidden) as error:
            lost, refusal = calls, AccessLost(error.message)
        else:
            lost = [call for call in calls if not call.is_allowed(caller)]
            refusal = AccessLost("Your role no longer allows this.")
        if lost:
            _log.info("open calls lost their right", extra={"calls": len(lost), "cause": refusal.message})
        for call in lost:
            call.end(refusal)
