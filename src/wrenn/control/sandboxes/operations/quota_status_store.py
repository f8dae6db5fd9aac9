"""The statement that counts what a team and its owner use, for the check of quotas."""

from __future__ import annotations

from dataclasses import fields
from typing import Any, Final

from sqlalchemy import ColumnElement, Row, Select, Uuid, bindparam, func, select, true

from wrenn.control.db import in_s
from wrenn.control.identity import teams
from wrenn.control.quotas import (
    LIMIT_COLUMNS,
    Limits,
    QuotaStatus,
    Usage,
    limits_of,
    most_of,
    owned_together,
    owner_limits_of,
    team_limits,
)
from wrenn.control.sandboxes.store import is_live, takes_memory
from wrenn.control.sandboxes.tables import sandboxes
from wrenn.control.templates import snapshot_mb, snapshot_mb_of, template_count, template_count_of

_c = sandboxes.c


def _quota_status() -> Select[*tuple[Any, ...]]:
    team_id = bindparam("team_id", type_=Uuid)
    in_memory = takes_memory()
    owned = owned_together(team_id)
    of_owner = _c.team_id.in_(select(owned.c.team_id))

    def counts(prefix: str, whose: ColumnElement[bool]) -> list[ColumnElement[Any]]:
        return [
            func.count().filter(whose, in_memory).label(f"{prefix}running_sandboxes"),
            func.count().filter(whose).label(f"{prefix}total_sandboxes"),
            *(
                func.coalesce(func.sum(_c[name]).filter(whose, in_memory), 0).label(prefix + name)
                for name in ("vcpus", "memory_mb")
            ),
        ]

    is_teams = _c.team_id == team_id
    has = select(*counts("", is_teams), *counts(_OF_OWNER, true())).where(of_owner, is_live()).subquery("has")
    recent = (
        select(
            func.count().filter(is_teams).label("creates_per_second"),
            func.count().label(f"{_OF_OWNER}creates_per_second"),
        )
        .where(of_owner, _c.created_at > in_s(-1))
        .subquery("recent")
    )
    most = most_of(owned).subquery("most")
    return select(
        has,
        recent,
        most,
        template_count(team_id).label("templates"),
        template_count_of(owned).label(f"{_OF_OWNER}templates"),
        snapshot_mb(team_id).label("snapshot_mb"),
        snapshot_mb_of(owned).label(f"{_OF_OWNER}snapshot_mb"),
        *LIMIT_COLUMNS,
        select(teams.c.is_byoc).where(teams.c.id == team_id).scalar_subquery().label("is_byoc"),
    ).select_from(
        has.join(recent, true()).join(most, true()).outerjoin(team_limits, team_limits.c.team_id == team_id)
    )


_OF_OWNER: Final = "owner_"
"""Begin of the names of columns that count all teams of the team's owner."""
QUOTA_STATUS: Final = _quota_status()
"""What the team `team_id` has, and its owner over all own teams, with their limits; `quota_status_of` reads it.

With `is_byoc`, whether the team brings its own hosts: a create needs both, and each statement is a round trip.
"""


def quota_status_of(row: Row[Any], defaults: Limits) -> QuotaStatus:
    """Convert the row of `QUOTA_STATUS` to a value."""
    usage, of_owner = (
        Usage(**{field.name: int(getattr(row, prefix + field.name)) for field in fields(Usage)})
        for prefix in ("", _OF_OWNER)
    )
    owner = QuotaStatus(owner_limits_of(row, defaults), of_owner)
    return QuotaStatus(limits_of(row).over(defaults), usage, owner)
