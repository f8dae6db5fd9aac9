"""Samples that hosts send to be stored."""

from __future__ import annotations

import asyncio
import base64
import binascii
import json
import math
from typing import Any, Final, cast

from wrenn.base.clock import Clock
from wrenn.base.errors import Forbidden, InvalidRequest, RateLimited
from wrenn.base.ids import HostId, SandboxId
from wrenn.control.auth import Tokens
from wrenn.control.db import Database
from wrenn.control.hosts import credential_store
from wrenn.control.http.buckets import Buckets, Rate
from wrenn.control.metrics import sample_store
from wrenn.control.metrics.sample_store import SampleBatch
from wrenn.protocol.api import METRICS_SERIES_LIMIT
from wrenn.protocol.samples import Tier, is_sound

_CALLS: Final = Rate(per_s=0.2, burst=60)
"""Of one host. An agent sends every five minutes, and when sandboxes pause or end; what waits meanwhile it sends together."""
_BUCKETS: Final = 20_000
_VALUES_LIMIT: Final = 8 * (METRICS_SERIES_LIMIT + 1)
"""JSON values of a body: parsing more of them would hold up everything else."""
_AT_ONCE: Final = 4
"""Bodies that a replica stores at the same time; others wait."""


class ReceivedSamples:
    """Checks and stores the samples that hosts send."""

    def __init__(self, *, database: Database, tokens: Tokens, clock: Clock) -> None:
        self._database = database
        self._tokens = tokens
        self._calls = Buckets(_CALLS, clock, most=_BUCKETS)
        self._turns = asyncio.Semaphore(_AT_ONCE)
        self._sending: set[HostId] = set()

    async def sender(self, host_token: str | None, text_id: str) -> HostId:
        """Return which host calls; to be asked before its body is read.

        Raises:
            Unauthorized: no valid host token. Forbidden: it is another host's. HostDeleted. RateLimited: it calls too often.
        """
        token = self._tokens.read_host(host_token or "")
        if str(token.host_id) != text_id:
            raise Forbidden("This token belongs to another host.")
        # By token: one that was revoked must not use up what the host may do with its present one.
        wait_s = self._calls.take(token.refresh_id.bytes)
        if wait_s:
            raise RateLimited("This host calls too often.", retry_after_s=math.ceil(wait_s))
        await credential_store.owner_of_caller(self._database, token.host_id, token.refresh_id)
        return token.host_id

    async def store(self, host_id: HostId, body: bytes) -> None:
        """Store the samples in this body, each once. Those of sandboxes that are not on this host are left out.

        Raises:
            InvalidRequest: it is no list of sound samples. Nothing is stored. RateLimited: samples of this host are being stored.
        """
        if host_id in self._sending:
            raise RateLimited(
                "Samples of this host are being stored. Send the next ones afterwards.", retry_after_s=1
            )
        self._sending.add(host_id)
        try:
            async with self._turns:
                batches = await asyncio.to_thread(_batches, body)
                if batches:
                    await self._database.transaction(
                        lambda tx: sample_store.store_batches(tx, host_id, batches)
                    )
        finally:
            self._sending.discard(host_id)


def _batches(body: bytes) -> list[SampleBatch]:
    # In texts they count too, but there are none in which they occur.
    if body.count(b",") + body.count(b"{") + body.count(b"[") > _VALUES_LIMIT:
        raise InvalidRequest(f"series: at most {METRICS_SERIES_LIMIT}.")
    try:
        said: Any = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise InvalidRequest("The body is not valid JSON.") from error
    series = cast("dict[str, Any]", said).get("series") if isinstance(said, dict) else None
    if not isinstance(series, list):
        raise InvalidRequest("series: a list is needed.")
    each_of = cast("list[Any]", series)
    if len(each_of) > METRICS_SERIES_LIMIT:
        raise InvalidRequest(f"series: at most {METRICS_SERIES_LIMIT}.")
    return [_batch(each) for each in each_of]


def _batch(said: Any) -> SampleBatch:
    match said:
        case {"sandbox_id": str(text_id), "tier": str(text_tier), "samples": str(encoded)}:
            pass
        case _:
            raise InvalidRequest("series: each needs `sandbox_id`, `tier` and `samples`.")
    try:
        tier = Tier(text_tier)
        packed = base64.b64decode(encoded, validate=True)
    except (ValueError, binascii.Error) as error:
        raise InvalidRequest("series: a tier or samples that cannot be read.") from error
    if not is_sound(packed, most=tier.capacity):
        raise InvalidRequest("series: samples that are not possible.")
    return SampleBatch(SandboxId.parse(text_id), tier, packed)
