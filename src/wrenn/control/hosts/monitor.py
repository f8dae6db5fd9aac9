"""Finds out which hosts answer. What hosts report comes with their heartbeats; hosts of before are asked for it."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from wrenn.base.errors import WrennError
from wrenn.base.ids import HostId
from wrenn.base.loops import Loop
from wrenn.control.db import Database
from wrenn.control.hosts import store
from wrenn.control.hosts.client import HostClients
from wrenn.control.hosts.recent import RecentHosts
from wrenn.control.hosts.rounds import HostRounds
from wrenn.control.hosts.types import Host, HostStatus
from wrenn.control.hosts.visits import FirstVisits

_log = logging.getLogger(__name__)

_LOOK_TIMEOUT_S: Final = 5.0
_LOOK_DEADLINE_S: Final = 15.0
"""Longest for a look at one host, with the statement that stores the answer."""
_RECENT_S: Final = 1.0
"""Requests that find no host have the silent hosts looked at no more often than this."""
_USUAL_S: Final = 60.0
"""Time between two looks at a host that sends heartbeats and answers."""
_SILENT_MAX_S: Final = 30.0
"""Longest time between two looks at a host that does not answer."""
_OVERDUE: Final = 0.5
"""The share of `missing_after_s` after which a heartbeat is overdue, and the host is looked at more often."""
_OVERDUE_LOOKS: Final = 6
"""Looks at such a host within `missing_after_s`."""


@dataclass(frozen=True, slots=True)
class _Look:
    """The last look at a host.

    Attributes:
        at: when, by the loop's clock.
        silent_looks: how many in a row it has not answered.
        heartbeat_at: its last heartbeat then.
        failures: of calls to it until then.
    """

    at: float
    silent_looks: int
    heartbeat_at: datetime | None
    failures: int


class Monitor:
    """Looks at hosts and stores whether they answer. Several replicas may look at the same host: the last look wins.

    A host that does not answer is unreachable, unless a heartbeat came within `missing_after_s`. A host is looked at in every
    round if it sends no report with its heartbeats, or once a call to it has failed; and else when its heartbeat is overdue,
    when one comes although it did not answer, and every minute. An answer is stored where it changes something.

    Attributes:
        on_unreachable: called after a host has become unreachable.
    """

    def __init__(
        self,
        database: Database,
        hosts: RecentHosts,
        clients: HostClients,
        *,
        interval_s: float,
        missing_after_s: float,
    ) -> None:
        self._database = database
        self._hosts = hosts
        self._clients = clients
        self._interval_s = interval_s
        self._missing_after_s = missing_after_s
        self.loop = Loop("look at hosts")
        self.on_unreachable: Callable[[], None] = lambda: None
        self._rounds = HostRounds("look at hosts", deadline_s=_LOOK_DEADLINE_S)
        self._looks: dict[HostId, _Look] = {}
        self._first = FirstVisits()
        # Looks for requests, and when they began: at all hosts, and at the silent ones.
        self._recent: dict[bool, tuple[asyncio.Task[None], float]] = {}

    async def run(self) -> None:
        """Look at hosts at an interval, until cancelled."""
        try:
            await self.loop.run(self._look_at_due, every_s=self._interval_s)
        finally:
            await self._rounds.close()

    async def look_once(self) -> None:
        """Look at all hosts now; as `HostRounds.run`."""
        await self._rounds.run(await store.all_hosts(self._database), self._look)

    async def look_recently(self, *, everywhere: bool = True) -> None:
        """Look at all hosts, or at those that do not answer, for any number of callers.

        They share a look of the same kind that is under way or began less than a second ago.
        """
        now = asyncio.get_running_loop().time()
        recent = self._recent.get(everywhere)
        if recent is None or (recent[0].done() and now - recent[1] >= _RECENT_S):
            look = self.look_once() if everywhere else self._look_at_silent()
            recent = (asyncio.create_task(look, name="look at hosts for requests"), now)
            self._recent[everywhere] = recent
        # The look goes on for the others when one caller is cancelled.
        await asyncio.shield(recent[0])

    async def _look_at_silent(self) -> None:
        hosts = await store.all_hosts(self._database)
        await self._rounds.run([h for h in hosts if not h.is_reachable or not h.inventory], self._look)

    async def _look_at_due(self) -> None:
        hosts = await self._hosts.read()
        present = {host.host_id for host in hosts}
        self._looks = {host_id: look for host_id, look in self._looks.items() if host_id in present}
        self._rounds.keep_hosts(hosts)
        self._clients.keep_hosts(present)
        now = asyncio.get_running_loop().time()
        await self._rounds.run(self._due(hosts, now), self._look)

    def _due(self, hosts: Sequence[Host], now: float) -> list[Host]:
        return [host for host in self._first.begin(hosts) if self._is_due(host, now)]

    def _is_due(self, host: Host, now: float) -> bool:
        look = self._looks.get(host.host_id)
        if look is None or not host.inventory:
            return True
        if look.failures != self._clients.at(host.endpoint).failures:
            return True
        if not host.is_reachable:
            is_new_heartbeat = host.last_heartbeat_at != look.heartbeat_at
            is_down_now = host.status is HostStatus.ONLINE and host.unheard_s >= self._missing_after_s
            if is_new_heartbeat or is_down_now:
                return True
            pause_s = min(self._interval_s * 2 ** min(look.silent_looks, 16), _SILENT_MAX_S)
        elif host.unheard_s >= self._missing_after_s * _OVERDUE:
            pause_s = min(self._missing_after_s / _OVERDUE_LOOKS, _USUAL_S)
        else:
            pause_s = _USUAL_S
        return now - look.at >= pause_s

    async def _look(self, host: Host) -> None:
        client = self._clients.at(host.endpoint)
        try:
            seen = await client.report(timeout_s=_LOOK_TIMEOUT_S)
        except WrennError as error:
            former = self._looks.get(host.host_id)
            self._remember(host, 1 if former is None else former.silent_looks + 1)
            if host.is_reachable:
                _log.warning(
                    "host is silent",
                    extra={"host_id": str(host.host_id), "reason": error.message, **error.context},
                )
            if await store.record_silent(
                self._database, host.endpoint, missing_after_s=self._missing_after_s
            ):
                _log.warning("host is unreachable", extra={"host_id": str(host.host_id)})
                self._hosts.forget()
                self.on_unreachable()
            return
        self._remember(host, 0)
        is_known = host.platform == seen.platform and host.templates == frozenset(seen.templates)
        if host.is_reachable and host.status is HostStatus.ONLINE and host.inventory and is_known:
            return  # as its row says, and how much of it is in use comes with its heartbeats
        await store.record_seen(self._database, host.endpoint, seen)
        if not host.is_reachable:
            _log.info("host answers", extra={"host_id": str(host.host_id)})
            self._hosts.forget()

    def _remember(self, host: Host, silent_looks: int) -> None:
        self._looks[host.host_id] = _Look(
            at=asyncio.get_running_loop().time(),
            silent_looks=silent_looks,
            heartbeat_at=host.last_heartbeat_at,
            failures=self._clients.at(host.endpoint).failures,
        )
