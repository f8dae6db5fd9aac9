"""Statements on invitations into teams. Times are the database's."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import and_, delete, func, select
from sqlalchemy.dialects.postgresql import insert

from wrenn.base.ids import InvitationId, TeamId, UserId
from wrenn.control.db import Database, Transaction, in_s, span_s
from wrenn.control.identity import Role, users, users_teams
from wrenn.control.teams.tables import team_invitations as invitations

_c = invitations.c
_ADMINISTERS = (Role.OWNER, Role.ADMIN)


@dataclass(frozen=True, slots=True)
class Invitation:
    """An invitation into a team that was not accepted yet."""

    invitation_id: InvitationId
    team_id: TeamId
    email: str
    invited_by: UserId
    inviter_email: str
    created_at: datetime
    expires_at: datetime


def _select_valid() -> Any:
    """Select invitations that can be accepted: not expired, and made by a user who may still invite."""
    still_administers = and_(
        users_teams.c.team_id == _c.team_id,
        users_teams.c.user_id == _c.invited_by,
        users_teams.c.role.in_(_ADMINISTERS),
    )
    return (
        select(invitations, users.c.email.label("inviter_email"))
        .join(users, and_(users.c.id == _c.invited_by, users.c.status == "active"))
        .join(users_teams, still_administers)
        .where(_c.expires_at > func.now())
    )


def _invitation(row: Any) -> Invitation:
    return Invitation(
        invitation_id=InvitationId(row.id),
        team_id=TeamId(row.team_id),
        email=row.email,
        invited_by=UserId(row.invited_by),
        inviter_email=row.inviter_email,
        created_at=row.created_at,
        expires_at=row.expires_at,
    )


async def upsert(
    tx: Transaction, team_id: TeamId, *, email: str, token_hash: str, invited_by: UserId, life_s: float
) -> Invitation:
    """Insert an invitation of this address, in place of an earlier one."""
    values = {
        "id": InvitationId.new().value,
        "token_hash": token_hash,
        "invited_by": invited_by.value,
        "created_at": func.now(),
        "expires_at": in_s(life_s),
    }
    wanted = insert(invitations).values(team_id=team_id.value, email=email, **values)
    await tx.execute(wanted.on_conflict_do_update(index_elements=["team_id", "email"], set_=values))
    return _invitation((await tx.execute(_select_valid().where(_c.token_hash == token_hash))).one())


async def of_team(database: Database, team_id: TeamId) -> list[Invitation]:
    """Return the team's invitations that can be accepted, newest first."""
    query = _select_valid().where(_c.team_id == team_id.value).order_by(_c.created_at.desc(), _c.id)
    return [_invitation(row) for row in await database.execute(query, repeatable=True)]


async def count_others(tx: Transaction, team_id: TeamId, email: str) -> int:
    """Count the team's valid invitations of other addresses."""
    others = _select_valid().where(_c.team_id == team_id.value, _c.email != email).subquery()
    return int((await tx.execute(select(func.count()).select_from(others))).scalar_one())


async def find(tx: Transaction, token_hash: str) -> Invitation | None:
    """Return the invitation that this token belongs to; None: there is none that can be accepted."""
    row = (await tx.execute(_select_valid().where(_c.token_hash == token_hash))).one_or_none()
    return None if row is None else _invitation(row)


async def remove(tx: Transaction, team_id: TeamId, invitation_id: InvitationId) -> str | None:
    """Delete an invitation and return the invited address; None: there was no such invitation."""
    gone = await tx.execute(
        delete(invitations)
        .where(_c.team_id == team_id.value, _c.id == invitation_id.value)
        .returning(_c.email)
    )
    return gone.scalar_one_or_none()


async def remove_all_by(tx: Transaction, user_id: UserId) -> int:
    """Delete the invitations that this user made into any team, and return how many there were."""
    gone = await tx.execute(delete(invitations).where(_c.invited_by == user_id.value).returning(_c.id))
    return len(gone.all())


async def forget_old(database: Database, *, older_s: float) -> None:
    """Delete invitations that expired more than `older_s` ago."""
    await database.execute(delete(invitations).where(_c.expires_at < func.now() - span_s(older_s)))
