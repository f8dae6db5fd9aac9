"""How a credential is looked up: parts of a query, so that a feature may read the caller and its own row in one round trip."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from sqlalchemy import ColumnElement, FromClause, and_, bindparam, func, or_, select

from wrenn.control.auth.credential import ApiKey, Credential, UserToken
from wrenn.control.auth.tables import sessions
from wrenn.control.db import Database, RowQuery
from wrenn.control.keys import team_api_keys as keys
from wrenn.control.teams import teams, users, users_teams


@dataclass(frozen=True, slots=True)
class CallerQuery:
    """The parts of a query for the caller of one kind of credential. `team_id` is null where there is no such member."""

    columns: Sequence[ColumnElement[Any]]
    source: FromClause
    is_valid: ColumnElement[bool]
    team_id: ColumnElement[Any]

    def alone(self) -> RowQuery:
        """The query for the caller and nothing else."""
        return RowQuery(select(*self.columns).select_from(self.source).where(self.is_valid))


KEY_CALLER: Final = CallerQuery(
    columns=(
        keys.c.id.label("caller_key_id"),
        keys.c.name.label("caller_key_name"),
        keys.c.scope.label("caller_scope"),
        keys.c.team_id.label("caller_team_id"),
    ),
    source=keys.join(teams, teams.c.id == keys.c.team_id).join(users, users.c.id == keys.c.created_by),
    is_valid=and_(
        keys.c.key_hash == bindparam("caller_key_hash"),
        or_(keys.c.expires_at.is_(None), keys.c.expires_at > func.now()),
        teams.c.deleted_at.is_(None),
        users.c.status != "disabled",
    ),
    team_id=keys.c.team_id,
)

_membership: Final = users_teams.join(
    teams, and_(teams.c.id == users_teams.c.team_id, teams.c.deleted_at.is_(None))
)

USER_CALLER: Final = CallerQuery(
    columns=(
        users.c.id.label("caller_user_id"),
        users.c.email.label("caller_email"),
        users.c.name.label("caller_name"),
        users.c.is_admin.label("caller_is_admin"),
        users.c.status.label("caller_status"),
        sessions.c.id.label("caller_session_id"),
        users_teams.c.role.label("caller_role"),
        users_teams.c.team_id.label("caller_team_id"),
    ),
    source=sessions.join(users, users.c.id == sessions.c.user_id).outerjoin(
        _membership,
        and_(users_teams.c.user_id == users.c.id, users_teams.c.team_id == bindparam("caller_team_id")),
    ),
    is_valid=and_(
        sessions.c.id == bindparam("caller_session_id"),
        sessions.c.user_id == bindparam("caller_user_id"),
        sessions.c.ended_at.is_(None),
        sessions.c.expires_at > func.now(),
    ),
    team_id=users_teams.c.team_id,
)

CALLERS: Final[dict[type[Credential], CallerQuery]] = {ApiKey: KEY_CALLER, UserToken: USER_CALLER}
"""How the caller is looked up, by the kind of credential."""

_ALONE: Final = {kind: query.alone() for kind, query in CALLERS.items()}


def arguments_of(credential: Credential) -> dict[str, object]:
    """The arguments of the `CallerQuery` for this credential."""
    if isinstance(credential, ApiKey):
        return {"caller_key_hash": credential.key_hash}
    return {
        "caller_user_id": credential.user_id.value,
        "caller_team_id": credential.team_id.value,
        "caller_session_id": credential.session_id.value,
    }


async def find_caller(database: Database, credential: Credential) -> Any:
    """The row of the credential's `CallerQuery`; None where it is not valid."""
    return await database.find(_ALONE[type(credential)], **arguments_of(credential))
