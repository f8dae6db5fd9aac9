"""Statements on the drains of hosts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from sqlalchemy import Select, func, null, select, update

from wrenn.base.ids import HostId
from wrenn.control.audit import Status
from wrenn.control.db import Database, Transaction
from wrenn.control.hosts.store import log_team, marked
from wrenn.control.hosts.tables import hosts
from wrenn.control.hosts.types import DrainPolicy

_c = hosts.c


@dataclass(frozen=True, slots=True)
class DrainingHost:
    """A host that is drained, or was and is not used yet."""

    host_id: HostId
    policy: DrainPolicy
    is_drained: bool


def drain_policy_of(row: Any) -> DrainPolicy:
    """Return the policy of a drain from `drain_policy` and `drain_moves`."""
    return DrainPolicy.MOVE if row.drain_moves else DrainPolicy(row.drain_policy)


def _draining() -> Select[*tuple[Any, ...]]:
    return select(_c.id, _c.drain_policy, _c.drain_moves, _c.drained_at).where(
        _c.drain_policy.is_not(None), _c.deleted_at.is_(None)
    )


_DRAINING: Final = _draining()


async def draining(database: Database) -> Sequence[DrainingHost]:
    """Return the hosts that are or were drained."""
    found = await database.execute(_DRAINING, repeatable=True)
    return [DrainingHost(HostId(row.id), drain_policy_of(row), row.drained_at is not None) for row in found]


async def begin(tx: Transaction, host_id: HostId, policy: DrainPolicy) -> None:
    """Begin the drain of a locked host, or change its policy."""
    await tx.execute(
        update(hosts)
        .where(_c.id == host_id.value)
        .values(
            # The former version, which may be running too, knows no other.
            drain_policy=DrainPolicy.PAUSE if policy is DrainPolicy.MOVE else policy,
            drain_moves=policy is DrainPolicy.MOVE,
            drain_began_at=func.coalesce(_c.drain_began_at, func.now()),
            updated_at=func.now(),
        )
    )


async def end(tx: Transaction, host_id: HostId) -> None:
    """Take back the drain of a locked host."""
    await tx.execute(
        update(hosts)
        .where(_c.id == host_id.value)
        .values(
            drain_policy=null(),
            drain_moves=False,
            drain_began_at=null(),
            drained_at=null(),
            updated_at=func.now(),
        )
    )


async def mark_drained(database: Database, host_id: HostId, *, is_drained: bool) -> bool:
    """Store whether no sandbox is in the memory of a draining host any more; False: it was so, or it is not drained any more."""
    was = _c.drained_at.is_(None) if is_drained else _c.drained_at.is_not(None)
    changed = (
        update(hosts)
        .where(_c.id == host_id.value, _c.deleted_at.is_(None), _c.drain_policy.is_not(None), was)
        .values(drained_at=func.now() if is_drained else null(), updated_at=func.now())
        .returning(_c.id, log_team(_c.team_id))
        .cte("changed")
    )
    entries = marked(changed, "marked_drained", Status.SUCCESS) if is_drained else ()
    found = await database.execute(select(changed.c.id).add_cte(*entries))
    return found.one_or_none() is not None
