"""What hosts have and what is in use of it, and how creates went: for admins of the platform."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from wrenn.base.errors import WrennError
from wrenn.base.ids import TeamId
from wrenn.control.db import Database
from wrenn.control.hosts import HostClients
from wrenn.control.metrics import platform_store, team_store
from wrenn.control.metrics.platform_store import CreatesBucket, HostLoad
from wrenn.control.metrics.ranges import StatsRange
from wrenn.control.metrics.tables import PLATFORM
from wrenn.control.metrics.team_metrics import PEAKS_S, TeamStats
from wrenn.protocol.samples import is_sound, unpack_samples

_log = logging.getLogger(__name__)

_TIMEOUT_S: Final = 2.0
_HOSTS_AT_ONCE: Final = 32
_LEAST_BUCKET_S: Final = 60.0
_VCPUS_LIMIT: Final = 1024


@dataclass(frozen=True, slots=True)
class HostUsage:
    """What the sandboxes of a host use at this moment, together. `cpu_cores`: as many cores would be busy all the time."""

    sandboxes: int
    cpu_cores: float
    mem_b: int
    disk_b: int
    net_in_b_per_s: float
    net_out_b_per_s: float


@dataclass(frozen=True, slots=True)
class PlatformStats:
    """What all teams together have and had, and how creates went. `failures`: how many by the code of the error."""

    totals: TeamStats
    creates: Sequence[CreatesBucket]
    failures: Sequence[tuple[str, int]]


class PlatformUsage:
    """Reads what is known about all hosts and teams."""

    def __init__(self, *, database: Database, clients: HostClients) -> None:
        self._database = database
        self._clients = clients
        self._turns = asyncio.Semaphore(_HOSTS_AT_ONCE)

    async def hosts(self) -> list[tuple[HostLoad, HostUsage | None]]:
        """Return all hosts, and what their sandboxes use now; None: the host does not answer, or does not know."""
        found = await platform_store.hosts(self._database)
        used = await asyncio.gather(*(self._usage(host) for host in found))
        return list(zip(found, used, strict=True))

    async def _usage(self, host: HostLoad) -> HostUsage | None:
        if not host.is_reachable:
            return None
        async with self._turns:
            try:
                answer = await self._clients.at(host.endpoint).usage(timeout_s=_TIMEOUT_S)
            except WrennError as error:
                fields = {"host_id": str(host.endpoint.host_id), "cause": error.message}
                _log.debug("no usage of a host", extra=fields)
                return None
        if answer is None:
            return None
        # A team's own host may say anything.
        sound = [
            (next(unpack_samples(packed)), min(vcpus, _VCPUS_LIMIT))
            for packed, vcpus in answer
            if is_sound(packed, most=1)
        ]
        return HostUsage(
            sandboxes=len(sound),
            cpu_cores=sum(sample.cpu_pct * vcpus / 100 for sample, vcpus in sound),
            mem_b=sum(sample.mem_b if sample.mem_pss_b is None else sample.mem_pss_b for sample, _ in sound),
            disk_b=sum(sample.disk_b or 0 for sample, _ in sound),
            net_in_b_per_s=sum(sample.net_in_b_per_s for sample, _ in sound),
            net_out_b_per_s=sum(sample.net_out_b_per_s for sample, _ in sound),
        )

    async def stats(self, span: StatsRange) -> PlatformStats:
        """Return the statistics of all teams together, and the creates of the range."""
        database, everybody = self._database, TeamId(PLATFORM)
        now, peaks, series, creates, failures = await asyncio.gather(
            team_store.totals_of_all(database),
            team_store.peaks(database, everybody, span_s=PEAKS_S),
            team_store.series(database, everybody, span_s=span.seconds, bucket_s=span.bucket_s),
            platform_store.creates(
                database, span_s=span.seconds, bucket_s=max(_LEAST_BUCKET_S, span.bucket_s)
            ),
            platform_store.create_failures(database, span_s=span.seconds),
        )
        return PlatformStats(TeamStats(now, team_store.highest(peaks, now), series), creates, failures)
