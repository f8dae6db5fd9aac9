"""Statements on samples of sandboxes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Final

from sqlalchemy import (
    ARRAY,
    BigInteger,
    LargeBinary,
    Text,
    Uuid,
    any_,
    bindparam,
    cast,
    delete,
    func,
    select,
    text,
)

from wrenn.base.faults import fault_point
from wrenn.base.ids import HostId, SandboxId
from wrenn.control.db import Database, Transaction
from wrenn.control.metrics.tables import sandbox_samples
from wrenn.control.sandboxes import State, sandboxes
from wrenn.protocol.samples import SAMPLE_B, Tier, time_of

_FUTURE_MS: Final = 300_000
"""Samples of a host whose clock is further ahead than that are not stored: they would push out those of all others."""
_STORED: Final = 2
"""Of each sandbox and tier at most so many times as many samples as the tier has; also rows, each of which has a sample."""
_AFTER_END_S: Final = 86_400.0
"""For so long the samples of a sandbox that has ended are taken: its host may have been cut off."""
_s = sandbox_samples.c


@dataclass(frozen=True, slots=True)
class SampleBatch:
    """Sound samples of one sandbox and tier, packed."""

    sandbox_id: SandboxId
    tier: Tier
    packed: bytes


_INSERT: Final = text(
    """
    INSERT INTO sandbox_samples (sandbox_id, tier, first_ms, last_ms, samples)
    SELECT * FROM unnest(:ids, :tiers, :firsts, :lasts, :samples) ON CONFLICT DO NOTHING
    """
).bindparams(
    bindparam("ids", type_=ARRAY(Uuid)),
    bindparam("tiers", type_=ARRAY(Text)),
    bindparam("firsts", type_=ARRAY(BigInteger)),
    bindparam("lasts", type_=ARRAY(BigInteger)),
    bindparam("samples", type_=ARRAY(LargeBinary)),
)
# `newer_b`: the size of this batch and of those of its sandbox and tier that are newer.
_TRIM: Final = text(
    """
    DELETE FROM sandbox_samples AS old USING (
        SELECT sandbox_id, tier, first_ms, last_ms, max(last_ms) OVER (PARTITION BY sandbox_id, tier) AS newest_ms,
            sum(octet_length(samples)) OVER (PARTITION BY sandbox_id, tier ORDER BY last_ms DESC, first_ms DESC) AS newer_b
        FROM sandbox_samples WHERE (sandbox_id, tier) IN (SELECT * FROM unnest(:ids, :tiers))
    ) AS stored JOIN unnest(:kinds, :windows_ms, :limits_b) AS limits (tier, window_ms, limit_b) USING (tier)
    WHERE (old.sandbox_id, old.tier, old.first_ms) = (stored.sandbox_id, stored.tier, stored.first_ms)
        AND (stored.last_ms < newest_ms - window_ms OR newer_b > limit_b)
    """
).bindparams(
    bindparam("ids", type_=ARRAY(Uuid)),
    bindparam("tiers", type_=ARRAY(Text)),
    bindparam("kinds", [str(tier) for tier in Tier], type_=ARRAY(Text)),
    bindparam("windows_ms", [tier.window_s * 1000 for tier in Tier], type_=ARRAY(BigInteger)),
    bindparam("limits_b", [_STORED * tier.capacity * SAMPLE_B for tier in Tier], type_=ARRAY(BigInteger)),
)


async def store_batches(tx: Transaction, host_id: HostId, batches: Sequence[SampleBatch]) -> int:
    """Store the batches of sandboxes that are on this host, each once, and delete what they push out; returns how many were taken.

    Of a sandbox only as much is kept as its tier reaches back from its newest sample, and at most `_STORED` times the samples
    that the tier has: a team's own host may send any. Of one that ended long ago nothing is taken.
    """
    ids = {batch.sandbox_id.value for batch in batches}
    now_ms = cast(func.extract("epoch", func.now()) * 1000, BigInteger)
    ended = sandboxes.c.status.in_([State.STOPPED, State.ERROR])
    found = await tx.execute(
        select(sandboxes.c.id, now_ms.label("now_ms")).where(
            sandboxes.c.id == any_(bindparam("ids", sorted(ids), type_=ARRAY(Uuid))),
            sandboxes.c.host_id == host_id.value,
            ~ended | (sandboxes.c.last_updated > func.now() - timedelta(seconds=_AFTER_END_S)),
        )
    )
    now_of = {row.id: row.now_ms for row in found}
    taken = [
        batch
        for batch in batches
        if time_of(batch.packed, -1) <= now_of.get(batch.sandbox_id.value, -_FUTURE_MS) + _FUTURE_MS
    ]
    if not taken:
        return 0
    # In one order everywhere: two hosts, or one that sends twice, do not wait for each other in a circle.
    taken.sort(key=lambda batch: (batch.sandbox_id.value, batch.tier, time_of(batch.packed, 0)))
    keys: dict[str, object] = {
        "ids": [batch.sandbox_id.value for batch in taken],
        "tiers": [str(batch.tier) for batch in taken],
    }
    values = {
        "firsts": [time_of(batch.packed, 0) for batch in taken],
        "lasts": [time_of(batch.packed, -1) for batch in taken],
        "samples": [batch.packed for batch in taken],
    }
    await tx.execute(_INSERT, {**keys, **values})
    await fault_point("control.samples.before_commit")
    await tx.execute(_TRIM, keys)
    return len(taken)


async def stored_samples(database: Database, sandbox_id: SandboxId, tier: Tier) -> list[bytes]:
    """Return the batches of one sandbox and tier, the newest first. They may overlap."""
    found = await database.execute(
        select(_s.samples)
        .where(_s.sandbox_id == sandbox_id.value, _s.tier == str(tier))
        .order_by(_s.last_ms.desc())
        .limit(_STORED * tier.capacity),
        repeatable=True,
    )
    return [row.samples for row in found]


async def delete_old(database: Database, *, older_s: float, most: int) -> int:
    """Delete at most so many batches whose newest sample is older than that; returns how many."""
    edge_ms = cast((func.extract("epoch", func.now()) - older_s) * 1000, BigInteger)
    some = select(_s.sandbox_id, _s.tier, _s.first_ms).where(_s.last_ms < edge_ms).limit(most).subquery()
    gone = await database.execute(
        delete(sandbox_samples).where(
            _s.sandbox_id == some.c.sandbox_id, _s.tier == some.c.tier, _s.first_ms == some.c.first_ms
        )
    )
    return gone.rowcount
