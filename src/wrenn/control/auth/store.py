"""Queries that look up credentials, in parts, so that a feature can read the caller and its own row in one round trip."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any, Final

from sqlalchemy import (
    ColumnElement,
    FromClause,
    Text,
    Uuid,
    and_,
    any_,
    bindparam,
    column,
    func,
    or_,
    select,
    update,
)
from sqlalchemy.dialects.postgresql import ARRAY

from wrenn.base.ids import KeyId, SessionId, TeamId, UserId
from wrenn.control.auth.credential import ApiKey, Credential, UserToken
from wrenn.control.db import Database, RowQuery, Transaction
from wrenn.control.identity import sessions, teams, users, users_teams
from wrenn.control.identity import team_api_keys as keys


@dataclass(frozen=True, slots=True)
class CallerQuery:
    """The parts of a query that finds the caller of one kind of credential. `team_id` is null where there is no such member."""

    columns: Sequence[ColumnElement[Any]]
    source: FromClause
    is_valid: ColumnElement[bool]
    team_id: ColumnElement[Any]

    def alone(self) -> RowQuery:
        """Return the query for the caller and nothing else."""
        return RowQuery(select(*self.columns).select_from(self.source).where(self.is_valid))


_key_columns: Final = (
    keys.c.id.label("caller_key_id"),
    keys.c.name.label("caller_key_name"),
    keys.c.scope.label("caller_scope"),
    keys.c.team_id.label("caller_team_id"),
)
_key_source: Final = keys.join(teams, teams.c.id == keys.c.team_id).join(
    users, users.c.id == keys.c.created_by
)
_key_lasts: Final = and_(
    or_(keys.c.expires_at.is_(None), keys.c.expires_at > func.now()),
    teams.c.deleted_at.is_(None),
    users.c.status != "disabled",
)

KEY_CALLER: Final = CallerQuery(
    columns=_key_columns,
    source=_key_source,
    is_valid=and_(keys.c.key_hash == bindparam("caller_key_hash"), _key_lasts),
    team_id=keys.c.team_id,
)

_membership: Final = users_teams.join(
    teams, and_(teams.c.id == users_teams.c.team_id, teams.c.deleted_at.is_(None))
)
_user_columns: Final = (
    users.c.id.label("caller_user_id"),
    users.c.email.label("caller_email"),
    users.c.name.label("caller_name"),
    users.c.is_admin.label("caller_is_admin"),
    users.c.status.label("caller_status"),
    sessions.c.id.label("caller_session_id"),
    users_teams.c.role.label("caller_role"),
    users_teams.c.team_id.label("caller_team_id"),
)
_session_lasts: Final = and_(sessions.c.ended_at.is_(None), sessions.c.expires_at > func.now())


def _with_membership(source: FromClause, team_id: ColumnElement[Any]) -> FromClause:
    """Join the users of `source` with their membership in this team, if there is one."""
    return source.outerjoin(
        _membership, and_(users_teams.c.user_id == users.c.id, users_teams.c.team_id == team_id)
    )


USER_CALLER: Final = CallerQuery(
    columns=_user_columns,
    source=_with_membership(
        sessions.join(users, users.c.id == sessions.c.user_id), bindparam("caller_team_id")
    ),
    is_valid=and_(
        sessions.c.id == bindparam("caller_session_id"),
        sessions.c.user_id == bindparam("caller_user_id"),
        _session_lasts,
    ),
    team_id=users_teams.c.team_id,
)

CALLERS: Final[dict[type[Credential], CallerQuery]] = {ApiKey: KEY_CALLER, UserToken: USER_CALLER}
"""How the caller is looked up, by the kind of credential."""

_ALONE: Final = {kind: query.alone() for kind, query in CALLERS.items()}

_ALL_KEYS: Final = (
    select(*_key_columns, keys.c.key_hash.label("caller_key_hash"))
    .select_from(_key_source)
    .where(keys.c.key_hash == any_(bindparam("hashes", type_=ARRAY(Text))), _key_lasts)
)
_shown: Final = (
    func.unnest(*(bindparam(name, type_=ARRAY(Uuid)) for name in ("sessions", "users", "teams")))
    .table_valued(*(column(name, Uuid) for name in ("session_id", "user_id", "team_id")), name="shown")
    .render_derived()
)
_ALL_USERS: Final = (
    select(*_user_columns, _shown.c.team_id.label("shown_team_id"))
    .select_from(
        _with_membership(
            _shown.join(
                sessions,
                and_(sessions.c.id == _shown.c.session_id, sessions.c.user_id == _shown.c.user_id),
            ).join(users, users.c.id == sessions.c.user_id),
            _shown.c.team_id,
        )
    )
    .where(_session_lasts)
)


def arguments_of(credential: Credential) -> dict[str, object]:
    """Return the arguments of the `CallerQuery` for this credential."""
    if isinstance(credential, ApiKey):
        return {"caller_key_hash": credential.key_hash}
    return {
        "caller_user_id": credential.user_id.value,
        "caller_team_id": credential.team_id.value,
        "caller_session_id": credential.session_id.value,
    }


async def find_caller(database: Database, credential: Credential) -> Any:
    """Return the row of the credential's `CallerQuery`; None: the credential is not valid."""
    return await database.find(_ALONE[type(credential)], **arguments_of(credential))


async def find_callers(database: Database, credentials: Collection[Credential]) -> dict[Credential, Any]:
    """Return the rows of many credentials, like `find_caller`; credentials that are not valid are left out.

    One statement for all API keys and one for all users' tokens, however many there are.
    """
    found: dict[Credential, Any] = {}
    shown_keys = [each for each in credentials if isinstance(each, ApiKey)]
    if shown_keys:
        hashes = list({key.key_hash for key in shown_keys})
        rows = await database.execute(_ALL_KEYS, {"hashes": hashes}, repeatable=True)
        by_hash = {row.caller_key_hash: row for row in rows}
        found.update({key: by_hash[key.key_hash] for key in shown_keys if key.key_hash in by_hash})
    tokens = [each for each in credentials if isinstance(each, UserToken)]
    if tokens:
        arguments = {
            "sessions": [token.session_id.value for token in tokens],
            "users": [token.user_id.value for token in tokens],
            "teams": [token.team_id.value for token in tokens],
        }
        for row in await database.execute(_ALL_USERS, arguments, repeatable=True):
            token = UserToken(
                UserId(row.caller_user_id), TeamId(row.shown_team_id), SessionId(row.caller_session_id)
            )
            found[token] = row
    return found


async def set_last_used(database: Database, key_ids: Collection[KeyId]) -> None:
    """Store that these keys were used now."""
    ids = [key_id.value for key_id in key_ids]
    await database.execute(update(keys).where(keys.c.id.in_(ids)).values(last_used=func.now()))


async def hold_session(tx: Transaction, user_id: UserId, session_id: SessionId) -> bool:
    """Lock the user until the transaction ends; whether user and session are valid then."""
    held = await tx.execute(
        select(users.c.status).where(users.c.id == user_id.value).with_for_update(key_share=True)
    )
    # A statement of its own: one that has waited for a row does not see what was committed meanwhile in other tables.
    found = await tx.execute(
        select(sessions.c.id).where(
            sessions.c.id == session_id.value, sessions.c.user_id == user_id.value, _session_lasts
        )
    )
    return held.scalar_one_or_none() == "active" and found.one_or_none() is not None
