"""Statements on samples of sandboxes."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from sqlalchemy import BigInteger, cast, delete, func, or_, select
from sqlalchemy.dialects.postgresql import insert

from wrenn.base.faults import fault_point
from wrenn.base.ids import HostId, SandboxId
from wrenn.control.db import Database, Transaction
from wrenn.control.metrics.tables import sandbox_samples
from wrenn.control.sandboxes import sandboxes
from wrenn.protocol.samples import Tier, time_of

_FUTURE_MS: Final = 300_000
"""Samples of a host whose clock is further ahead than that are not stored: they would push out those of all others."""
_s = sandbox_samples.c


@dataclass(frozen=True, slots=True)
class SampleBatch:
    """Sound samples of one sandbox and tier, packed."""

    sandbox_id: SandboxId
    tier: Tier
    packed: bytes


async def store_batches(tx: Transaction, host_id: HostId, batches: Sequence[SampleBatch]) -> int:
    """Store the batches of sandboxes that are on this host, each once, and delete what they push out; returns how many were taken.

    Of a sandbox only as much is kept as its tier reaches back from its newest sample.
    """
    ids = {batch.sandbox_id.value for batch in batches}
    now_ms = cast(func.extract("epoch", func.now()) * 1000, BigInteger)
    found = await tx.execute(
        select(sandboxes.c.id, now_ms.label("now_ms")).where(
            sandboxes.c.id.in_(sorted(ids)), sandboxes.c.host_id == host_id.value
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
    await tx.execute(
        insert(sandbox_samples)
        .values(
            [
                {
                    "sandbox_id": batch.sandbox_id.value,
                    "tier": str(batch.tier),
                    "first_ms": time_of(batch.packed, 0),
                    "last_ms": time_of(batch.packed, -1),
                    "samples": batch.packed,
                }
                for batch in taken
            ]
        )
        .on_conflict_do_nothing()
    )
    await fault_point("control.samples.before_commit")
    newest: defaultdict[tuple[SandboxId, Tier], int] = defaultdict(int)
    for batch in taken:
        key = (batch.sandbox_id, batch.tier)
        newest[key] = max(newest[key], time_of(batch.packed, -1))
    outdated = [
        (_s.sandbox_id == sandbox_id.value)
        & (_s.tier == str(tier))
        & (_s.last_ms < newest_ms - tier.window_s * 1000)
        for (sandbox_id, tier), newest_ms in newest.items()
    ]
    await tx.execute(delete(sandbox_samples).where(or_(*outdated)))
    return len(taken)


async def stored_samples(database: Database, sandbox_id: SandboxId, tier: Tier) -> list[bytes]:
    """Return the batches of one sandbox and tier, the oldest first. They may overlap."""
    found = await database.execute(
        select(_s.samples)
        .where(_s.sandbox_id == sandbox_id.value, _s.tier == str(tier))
        .order_by(_s.first_ms),
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
