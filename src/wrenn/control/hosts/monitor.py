"""Asks every host for its state every few seconds and stores the answers."""

from __future__ import annotations

import asyncio
import logging

from wrenn.base.errors import WrennError
from wrenn.base.loops import Loop
from wrenn.control.db import Database
from wrenn.control.hosts import store
from wrenn.control.hosts.client import HostClients
from wrenn.control.hosts.types import Host

_log = logging.getLogger(__name__)

_LOOK_TIMEOUT_S = 5.0


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

    async def run(self) -> None:
        """Look at all hosts at an interval, until cancelled."""
        await self.loop.run(self.look_once, every_s=self._interval_s)

    async def look_once(self) -> None:
        """Look at all hosts now."""
        hosts = await store.all_hosts(self._database)
        await asyncio.gather(*(self._look(host) for host in hosts))

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
