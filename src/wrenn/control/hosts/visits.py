"""Which hosts a loop visits: those where something may have changed since its last visit."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Collection, Sequence
from typing import Final

from wrenn.base.clock import Clock
from wrenn.base.ids import HostId
from wrenn.control.hosts.types import Host

_LONGEST_S: Final = 300.0
"""A host is visited at least so often, although nothing is known to have changed."""
_SPREAD: Final = 0.2
"""The share of that time by which the visits of hosts are spread."""
FIRST_VISITS: Final = 64
"""Hosts that a loop begins to visit in one round: a replica that starts visits a thousand within 50 s, and its first round leaves
most of a processor to requests and heartbeats."""


class FirstVisits:
    """Spreads the first visits of hosts: in each round at most `FIRST_VISITS` hosts join those that are visited."""

    def __init__(self) -> None:
        self._begun: set[HostId] = set()

    def begin(self, hosts: Sequence[Host]) -> list[Host]:
        """Return the hosts that are visited from this round on or were before, and forget those that are not among `hosts`."""
        self._begun &= {host.host_id for host in hosts}
        new = (host.host_id for host in hosts if host.host_id not in self._begun)
        self._begun.update(list(itertools.islice(new, FIRST_VISITS)))
        return [host for host in hosts if host.host_id in self._begun]


class Visits:
    """Remembers for each host what it looked like when a visit found nothing to do. In memory: a new replica visits all hosts.

    First visits are spread, in the order of the hosts (`FirstVisits`).

    `version` tells what a host looks like; a host whose version has changed is due.
    """

    def __init__(
        self, clock: Clock, version: Callable[[Host], object], *, longest_s: float = _LONGEST_S
    ) -> None:
        self._clock = clock
        self._version = version
        self._longest_s = longest_s
        self._settled: dict[HostId, tuple[object, float]] = {}
        self._first = FirstVisits()

    def due(self, hosts: Sequence[Host]) -> list[Host]:
        """Return the hosts to be visited now, and forget those that are not among `hosts`."""
        self.keep_hosts(hosts)
        now = self._clock.monotonic()
        return [host for host in self._first.begin(hosts) if self._is_due(host, now)]

    def _is_due(self, host: Host, now: float) -> bool:
        # Without a digest nobody knows whether something has changed.
        if not host.inventory or host.host_id not in self._settled:
            return True
        version, until = self._settled[host.host_id]
        return now >= until or version != self._version(host)

    def version_of(self, host: Host) -> object:
        """Return what the host looks like; to be read before the visit."""
        return self._version(host)

    def settle(self, host: Host, version: object) -> None:
        """Record that a visit found nothing to do, on a host that had this version before."""
        share = 1 - _SPREAD * (host.host_id.value.int % 1000) / 1000
        self._settled[host.host_id] = (version, self._clock.monotonic() + share * self._longest_s)

    def unsettle(self, host_id: HostId) -> None:
        """Record that there is something to do: the host is due until a visit finds nothing."""
        self._settled.pop(host_id, None)

    def keep_hosts(self, hosts: Collection[Host]) -> None:
        """Forget all other hosts."""
        present = {host.host_id for host in hosts}
        self._settled = {host_id: known for host_id, known in self._settled.items() if host_id in present}
