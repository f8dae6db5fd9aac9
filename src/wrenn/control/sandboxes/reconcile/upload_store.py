"""Statements on the uploads of paused sandboxes. Time is the database's."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from sqlalchemy import and_, delete, func, select, true, update
from sqlalchemy.dialects.postgresql import insert as upsert

from wrenn.base.ids import HostId, ImageId, SandboxId, TeamId
from wrenn.control.db import Database, Leases, Transaction, is_none_of
from wrenn.control.hosts import HostEndpoint, hosts
from wrenn.control.images import is_collection_overdue
from wrenn.control.sandboxes.state import Desired, State
from wrenn.control.sandboxes.tables import sandbox_uploads, sandboxes

_c = sandboxes.c
LEASES: Final = Leases(sandbox_uploads)


@dataclass(frozen=True, slots=True)
class PausedState:
    """The state of a paused sandbox that is not in the store. `paused_at`: the pause that saved it."""

    sandbox_id: SandboxId
    team_id: TeamId
    host: HostEndpoint
    generation: int
    paused_at: datetime


def _is_due() -> Any:
    return and_(
        _c.status == State.PAUSED,
        _c.desired == Desired.PAUSED,
        _c.move_host_id.is_(None),
        _c.stored_at.is_distinct_from(_c.paused_at),
    )


def _is_still(state: PausedState) -> Any:
    """SQL condition: the sandbox has not ended, nor been paused again, nor moved, since this state was saved; nor is it being moved."""
    return and_(
        _c.id == state.sandbox_id.value,
        _c.status.in_([State.PAUSED, State.RUNNING]),
        _c.host_id == state.host.host_id.value,
        _c.generation == state.generation,
        _c.paused_at == state.paused_at,
        # The recovery on another host begins from what is stored now.
        _c.move_host_id.is_(None),
    )


async def due(
    database: Database,
    *,
    limit: int,
    only_drained: bool,
    busy_hosts: Collection[HostId],
    busy_teams: Collection[TeamId],
    except_for: Collection[SandboxId],
) -> list[PausedState]:
    """Return states that nobody uploads, of hosts that answer, unless garbage of the team must be collected first; one of each host in turn, the oldest first.

    `only_drained`: of hosts that are drained. `except_for`: other sandboxes than these.
    """
    is_drained = hosts.c.drain_policy.is_not(None) if only_drained else true()
    turn = func.row_number().over(partition_by=_c.host_id, order_by=_c.paused_at)
    found = await database.execute(
        select(
            _c.id, _c.team_id, _c.host_id, _c.generation, _c.paused_at, hosts.c.address, hosts.c.cert_epoch
        )
        .join_from(sandboxes, hosts, hosts.c.id == _c.host_id)
        .outerjoin(sandbox_uploads, sandbox_uploads.c.id == _c.id)
        .where(
            _is_due(),
            hosts.c.is_reachable,
            is_drained,
            LEASES.is_free(),
            ~is_collection_overdue(_c.team_id),
            is_none_of(_c.host_id, busy_hosts),
            is_none_of(_c.team_id, busy_teams),
            is_none_of(_c.id, except_for),
        )
        .order_by(turn, _c.paused_at)
        .limit(limit),
        repeatable=True,
    )
    return [
        PausedState(
            SandboxId(row.id),
            TeamId(row.team_id),
            HostEndpoint(HostId(row.host_id), row.address, row.cert_epoch),
            row.generation,
            row.paused_at,
        )
        for row in found
    ]


async def is_due(database: Database, state: PausedState) -> bool:
    """Whether the sandbox is paused still, in this state, and is not being moved."""
    found = await database.execute(select(_c.id).where(_is_still(state), _is_due()))
    return found.one_or_none() is not None


async def lease(database: Database, sandbox_id: SandboxId, *, owner: str, lease_s: float) -> bool:
    """Take the lease to upload a sandbox; False: somebody has it."""
    granted = LEASES.grant(owner, lease_s)
    found = await database.execute(
        upsert(sandbox_uploads)
        .values(id=sandbox_id.value, **granted)
        .on_conflict_do_update(index_elements=[sandbox_uploads.c.id], set_=granted, where=LEASES.is_free())
        .returning(sandbox_uploads.c.id)
    )
    return found.one_or_none() is not None


async def release(database: Database, sandbox_id: SandboxId, *, owner: str) -> None:
    """Give the lease back."""
    await database.execute(delete(sandbox_uploads).where(LEASES.is_held(sandbox_id.value, owner)))


async def set_stored(tx: Transaction, state: PausedState, image_id: ImageId) -> bool:
    """Store which image a state is in the store; False: it is not the sandbox's last one any more."""
    found = await tx.execute(
        update(sandboxes)
        .where(_is_still(state))
        .values(stored_image_id=image_id.value, stored_at=state.paused_at)
        .returning(_c.id)
    )
    return found.one_or_none() is not None
