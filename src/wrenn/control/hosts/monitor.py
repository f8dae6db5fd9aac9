"""Asks every host for its state every few seconds and stores the answers."""

from __future__ import annotations

import asyncio
import logging
import math
from typing import Final

from wrenn.base.errors import WrennError
from wrenn.base.loops import Loop
from wrenn.control.db import Database
from wrenn.control.hosts import store
from wrenn.control.hosts.client import HostClients
from wrenn.control.hosts.rounds import HostRounds
from wrenn.control.hosts.types import Host

_log = logging.getLogger(__name__)

_LOOK_TIMEOUT_S: Final = 5.0
_LOOK_DEADLINE_S: Final = 15.0
"""Longest for a look at one host, with the statement that stores the answer."""
_RECENT_S: Final = 1.0
"""Requests that find no host have all hosts looked at no more often than this."""


class Monitor:
    """Asks every host for its state at an interval and stores the answers. Several replicas may look at the same host: the last look wins.

    A host that does not answer is unreachable, unless a heartbeat came within `silent_after_s`.
    """

    def __init__(
        self, database: Database, clients: HostClients, *, interval_s: float, silent_after_s: float
    ) -> None:
        self._database = database
        self._clients = clients
        self._interval_s = interval_s
        self._silent_after_s = silent_after_s
        self.loop = Loop("look at hosts")
        self._rounds = HostRounds("look at hosts", deadline_s=_LOOK_DEADLINE_S)
        self._recent: asyncio.Task[None] | None = None
        self._recent_at = -math.inf

    async def run(self) -> None:
        """Look at all hosts at an interval, until cancelled."""
        try:
            await self.loop.run(self.look_once, every_s=self._interval_s)
        finally:
            await self._rounds.close()

    async def look_once(self) -> None:
        """Look at all hosts now; as `HostRounds.run`."""
        await self._rounds.run(await store.all_hosts(self._database), self._look)

    async def look_recently(self) -> None:
        """Like `look_once`, for any number of callers: they share a look that is under way or began less than a second ago."""
        now = asyncio.get_running_loop().time()
        if self._recent is None or (self._recent.done() and now - self._recent_at >= _RECENT_S):
            self._recent = asyncio.create_task(self.look_once(), name="look at hosts for requests")
            self._recent_at = now
        # The look goes on for the others when one caller is cancelled.
        await asyncio.shield(self._recent)

    async def _look(self, host: Host) -> None:
        client = self._clients.at(host.endpoint)
        try:
            seen = await client.report(timeout_s=_LOOK_TIMEOUT_S)
        except WrennError as error:
            if host.is_reachable:
                _log.warning(
                    "host is silent",
                    extra={"host_id": str(host.host_id), "reason": error.message, **error.context},
                )
            await store.record_silent(self._database, host.host_id, heartbeat_s=self._silent_after_s)
            return
        if not host.is_reachable:
            _log.info("host answers", extra={"host_id": str(host.host_id)})
        await store.record_seen(self._database, host.host_id, seen)
