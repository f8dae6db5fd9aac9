"""What sandboxes used, as the e2b API has it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from wrenn.base.clock import Clock
from wrenn.base.errors import InvalidRequest
from wrenn.control.auth import Caller, Credential
from wrenn.control.e2b.sandboxes import E2bSandboxes, ListQuery
from wrenn.control.metrics import SampleRange, SandboxMetrics
from wrenn.control.sandboxes import Sandbox
from wrenn.protocol.samples import Sample

_IDS_LIMIT: Final = 100


@dataclass(frozen=True, slots=True)
class MeasuredSandbox:
    """A sandbox and samples of what it used."""

    sandbox: Sandbox
    samples: Sequence[Sample]


class E2bMetrics:
    """Reads samples of sandboxes for clients of the e2b API."""

    def __init__(self, *, sandboxes: E2bSandboxes, metrics: SandboxMetrics, clock: Clock) -> None:
        self._sandboxes = sandboxes
        self._metrics = metrics
        self._clock = clock

    async def series(
        self, credential: Credential, text_id: str, *, start_s: int | None, end_s: int | None
    ) -> MeasuredSandbox:
        """Return the samples between two moments in Unix time; None: from its creation, or until now.

        The older the beginning, the farther apart are the samples; none is older than 24 hours.

        Raises:
            NotFound. InvalidRequest: the end is before the beginning. Else as `SandboxMetrics.series`.
        """
        if start_s is not None and end_s is not None and end_s < start_s:
            raise InvalidRequest("end: must not be before start.")
        sandbox = (await self._sandboxes.find(credential, text_id)).sandbox
        now_s, created_s = self._clock.now().timestamp(), sandbox.created_at.timestamp()
        age_s = now_s - max(created_s, created_s if start_s is None else start_s)
        span = next((each for each in SampleRange if each.seconds >= age_s), SampleRange.H24)
        samples = await self._metrics.series(credential, str(sandbox.sandbox_id), span)
        return MeasuredSandbox(
            sandbox,
            [
                sample
                for sample in samples
                if (start_s is None or sample.at_ms >= start_s * 1000)
                and (end_s is None or sample.at_ms < (end_s + 1) * 1000)
            ],
        )

    async def newest(self, caller: Caller, text_ids: Sequence[str]) -> list[MeasuredSandbox]:
        """Return the newest sample of each of these sandboxes that is the caller's, runs, and has one.

        Raises:
            InvalidRequest: of an id, or too many.
        """
        if len(text_ids) > _IDS_LIMIT:
            raise InvalidRequest(f"sandbox_ids: at most {_IDS_LIMIT}.")
        samples = {each.sandbox_id: each.sample for each in await self._metrics.newest(caller, text_ids)}
        running, _ = await self._sandboxes.list(caller, ListQuery(states=("running",)))
        return [
            MeasuredSandbox(sandbox, [sample])
            for sandbox in running
            if (sample := samples.get(sandbox.sandbox_id)) is not None
        ]
