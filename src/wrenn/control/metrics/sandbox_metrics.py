"""What sandboxes used: samples that their hosts have in memory, and those that are stored."""

from __future__ import annotations

import asyncio
import logging
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from wrenn.base.clock import Clock
from wrenn.base.errors import InvalidRequest, WrennError
from wrenn.base.ids import SandboxId, TeamId
from wrenn.control.auth import Caller, Credential
from wrenn.control.db import Database
from wrenn.control.hosts import HostClients, HostEndpoint
from wrenn.control.metrics import sample_store
from wrenn.control.metrics.ranges import SampleRange
from wrenn.control.sandboxes import LocatedSandbox, Lookup, State, running_of_team
from wrenn.protocol.samples import Sample, is_sound, merge_samples, time_of, unpack_samples

_log = logging.getLogger(__name__)

_HOST_TIMEOUT_S: Final = 5.0
_NEWEST_TIMEOUT_S: Final = 2.0
SANDBOXES_LIMIT: Final = 500
"""Sandboxes whose newest samples a caller gets at once."""


@dataclass(frozen=True, slots=True)
class NewestSample:
    """The newest sample of a sandbox that runs; None: it has none yet, or its host does not answer."""

    sandbox_id: SandboxId
    sample: Sample | None


class SandboxMetrics:
    """Reads samples of sandboxes for their owners."""

    def __init__(self, *, database: Database, lookup: Lookup, clients: HostClients, clock: Clock) -> None:
        self._database = database
        self._lookup = lookup
        self._clients = clients
        self._clock = clock

    async def series(self, credential: Credential, text_id: str, span: SampleRange) -> list[Sample]:
        """Return the samples of a sandbox in the order of time: of one that runs back from now, else back from its last sample.

        Raises:
            Unauthorized, Forbidden, InvalidRequest, NotFound. Unavailable: it runs, and its host does not answer.
        """
        found = await self._lookup.find(credential, text_id)
        sandbox_id = found.sandbox.sandbox_id
        # The host first: what it has no more when it is asked later, is stored by then.
        parts = [await self._of_host(found, span)]
        parts += await sample_store.stored_samples(self._database, sandbox_id, span.tier)
        return await asyncio.to_thread(self._merged, [part for part in parts if part], found, span)

    def _merged(self, parts: Sequence[bytes], found: LocatedSandbox, span: SampleRange) -> list[Sample]:
        if not parts:
            return []
        if found.sandbox.status is State.RUNNING:
            end_ms = int(self._clock.now().timestamp() * 1000)
        else:
            end_ms = max(time_of(part, -1) for part in parts)
        merged = merge_samples(parts, since_ms=end_ms - span.seconds * 1000)
        return list(unpack_samples(merged))

    async def _of_host(self, found: LocatedSandbox, span: SampleRange) -> bytes:
        """Return what the host has in memory. Of one that runs not it may lack nothing, and the host need not answer."""
        sandbox = found.sandbox
        runs = sandbox.status is State.RUNNING
        if not runs and sandbox.status is not State.PAUSED:
            return b""
        since_ms = int((self._clock.now().timestamp() - span.seconds) * 1000) if runs else 0
        try:
            packed = await self._clients.at(found.host).samples(
                sandbox.sandbox_id,
                str(span.tier),
                since_ms=since_ms,
                timeout_s=_HOST_TIMEOUT_S if runs else _NEWEST_TIMEOUT_S,
            )
        except WrennError as error:
            if runs:
                raise
            _log.debug(
                "no samples of a host", extra={"sandbox_id": str(sandbox.sandbox_id), "cause": error.message}
            )
            return b""
        # A team's own host may say anything.
        return packed if is_sound(packed, most=2 * span.tier.capacity) else b""

    async def newest(self, caller: Caller, text_ids: Sequence[str] | None) -> list[NewestSample]:
        """Return the newest sample of each of these sandboxes that is the caller's and runs; None: of all, as many as allowed.

        Raises:
            InvalidRequest: of an id, or too many.
        """
        if text_ids is not None and len(text_ids) > SANDBOXES_LIMIT:
            raise InvalidRequest(f"ids: at most {SANDBOXES_LIMIT}.")
        ids = None if text_ids is None else [SandboxId.parse(text_id) for text_id in text_ids]
        return await self.newest_of_team(caller.team_id, ids)

    async def newest_of_team(self, team_id: TeamId, ids: Sequence[SandboxId] | None) -> list[NewestSample]:
        """Return the newest sample of each running sandbox of the team, or of those of them that are named, the newest sandbox first."""
        running = await running_of_team(self._database, team_id, ids, most=SANDBOXES_LIMIT)
        by_host: defaultdict[HostEndpoint, list[SandboxId]] = defaultdict(list)
        for sandbox_id, host in running:
            by_host[host].append(sandbox_id)
        answers = await asyncio.gather(*(self._newest_on(host, those) for host, those in by_host.items()))
        samples = {sandbox_id: sample for answer in answers for sandbox_id, sample in answer.items()}
        return [NewestSample(sandbox_id, samples.get(sandbox_id)) for sandbox_id, _ in running]

    async def _newest_on(self, host: HostEndpoint, ids: Sequence[SandboxId]) -> dict[SandboxId, Sample]:
        try:
            found = await self._clients.at(host).newest_samples(ids, timeout_s=_NEWEST_TIMEOUT_S)
        except WrennError as error:
            _log.debug("no samples of a host", extra={"host_id": str(host.host_id), "cause": error.message})
            return {}
        return {
            sandbox_id: next(unpack_samples(packed))
            for sandbox_id, packed in found.items()
            if is_sound(packed, most=1)  # a team's own host may say anything
        }
