"""Statements on sessions. Times are the database's."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from sqlalchemy import and_, case, delete, func, insert, or_, update

from wrenn.base.ids import SessionId, TeamId, UserId
from wrenn.control.db import Database, Transaction, in_s, span_s
from wrenn.control.identity import sessions

_c = sessions.c
REPEAT_S: Final = 10.0
"""How long after a refresh its token may be shown again: by a browser that lost the answer, or by another of its tabs."""


@dataclass(frozen=True, slots=True)
class Rotated:
    """The user and team of a refreshed session, and its remaining lifetime."""

    user_id: UserId
    team_id: TeamId
    life_s: int


async def insert_session(
    tx: Transaction,
    session_id: SessionId,
    *,
    user_id: UserId,
    team_id: TeamId,
    family_hash: str,
    refresh_hash: str,
    life_s: int,
) -> None:
    """Insert a session."""
    await tx.execute(
        insert(sessions).values(
            id=session_id.value,
            user_id=user_id.value,
            team_id=team_id.value,
            family_hash=family_hash,
            refresh_hash=refresh_hash,
            expires_at=in_s(life_s),
        )
    )


async def rotate(
    tx: Transaction, session_id: SessionId, *, family_hash: str, old_hash: str, new_hash: str
) -> Rotated | None:
    """Replace the refresh token; None: the old one is not the current token of a valid session.

    If the new one has replaced it within the last `REPEAT_S`, nothing changes.
    """
    is_current = _c.refresh_hash == old_hash
    is_repeated = and_(_c.refresh_hash == new_hash, _c.refreshed_at > func.now() - span_s(REPEAT_S))
    found = await tx.execute(
        update(sessions)
        .where(
            _c.id == session_id.value,
            _c.family_hash == family_hash,
            or_(is_current, is_repeated),
            _c.ended_at.is_(None),
            _c.expires_at > func.now(),
        )
        .values(refresh_hash=new_hash, refreshed_at=case((is_current, func.now()), else_=_c.refreshed_at))
        .returning(_c.user_id, _c.team_id, func.extract("epoch", _c.expires_at - func.now()).label("life_s"))
    )
    row = found.one_or_none()
    return None if row is None else Rotated(UserId(row.user_id), TeamId(row.team_id), int(row.life_s))


async def end_family(tx: Transaction, session_id: SessionId, *, family_hash: str) -> bool:
    """End the session that a refresh token belongs to, even if the token was used; whether it was still open."""
    found = await tx.execute(
        update(sessions)
        .where(_c.id == session_id.value, _c.family_hash == family_hash, _c.ended_at.is_(None))
        .values(ended_at=func.now())
        .returning(_c.id)
    )
    return found.one_or_none() is not None


async def end(tx: Transaction, session_id: SessionId) -> None:
    """End one session."""
    await tx.execute(
        update(sessions).where(_c.id == session_id.value, _c.ended_at.is_(None)).values(ended_at=func.now())
    )


async def end_all(tx: Transaction, user_id: UserId, *, but: SessionId | None = None) -> None:
    """End the user's sessions, except `but`."""
    conditions = [] if but is None else [_c.id != but.value]
    await tx.execute(
        update(sessions)
        .where(_c.user_id == user_id.value, _c.ended_at.is_(None), *conditions)
        .values(ended_at=func.now())
    )


async def set_team(tx: Transaction, session_id: SessionId, team_id: TeamId) -> None:
    """Set the team of the session's future tokens."""
    await tx.execute(update(sessions).where(_c.id == session_id.value).values(team_id=team_id.value))


async def forget_old(database: Database, *, older_s: float) -> None:
    """Delete sessions that ended or expired more than `older_s` ago."""
    before = func.now() - span_s(older_s)
    await database.execute(delete(sessions).where(or_(_c.ended_at < before, _c.expires_at < before)))
