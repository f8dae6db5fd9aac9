"""Which hosts refused to start a sandbox lately: placement takes them last."""

from __future__ import annotations

import asyncio
from typing import Final

from wrenn.base.ids import HostId

_FIRST_S: Final = 5.0
_LONGEST_S: Final = 60.0
_HOSTS_LIMIT: Final = 10_000
"""The one whose time ends first is forgotten beyond that."""


class BackOff:
    """Hosts that could not start a sandbox, each for a time that doubles with every further refusal, as this replica knows them.

    It is kept in memory: after a restart, and on another replica, a host is tried once more.
    """

    def __init__(self) -> None:
        # How often it refused, and until when it comes last.
        self._refusals: dict[HostId, tuple[int, float]] = {}

    def refused(self, host_id: HostId) -> None:
        """Note that the host could not start a sandbox."""
        count, _ = self._refusals.pop(host_id, (0, 0.0))
        lasts_s = min(_LONGEST_S, _FIRST_S * 2 ** min(count, 10))
        self._refusals[host_id] = (count + 1, asyncio.get_running_loop().time() + lasts_s)
        if len(self._refusals) > _HOSTS_LIMIT:
            del self._refusals[min(self._refusals, key=lambda each: self._refusals[each][1])]

    def started(self, host_id: HostId) -> None:
        """Note that the host started a sandbox: it is as good as any other."""
        self._refusals.pop(host_id, None)

    def hosts(self) -> frozenset[HostId]:
        """Return the hosts that come last now."""
        if not self._refusals:
            return frozenset()
        now_s = asyncio.get_running_loop().time()
        # One that was not tried again for long starts anew.
        self._refusals = {
            host_id: (count, until_s)
            for host_id, (count, until_s) in self._refusals.items()
            if now_s < until_s + _LONGEST_S
        }
        return frozenset(host_id for host_id, (_, until_s) in self._refusals.items() if now_s < until_s)
