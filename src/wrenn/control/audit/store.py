"""Statements on the audit log. An entry is written in the transaction, or by the statement, that makes the change."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from sqlalchemy import CTE, ColumnElement, Text, cast, func, insert, literal, select
from sqlalchemy.dialects.postgresql import JSONB

from wrenn.base.ids import TeamId
from wrenn.control.audit.entries import Actor, ActorKind, AuditAction, short, short_facts
from wrenn.control.audit.tables import audit_logs
from wrenn.control.db import Transaction

_c = audit_logs.c
_WRITTEN: Final = (
    "team_id", "actor_type", "actor_id", "actor_name", "resource_type", "resource_id", "action", "scope", "status",
    "metadata",
)  # fmt: skip


async def record(
    tx: Transaction, team_id: TeamId, actor: Actor, action: AuditAction, *resource_ids: str
) -> None:
    """Insert entries for an action on these resources of a team, in the transaction that performs it; one query."""
    if not resource_ids:
        return
    row = {
        "team_id": team_id.value,
        "actor_type": actor.kind.value,
        "actor_id": actor.actor_id,
        "actor_name": short(actor.name),
        "resource_type": action.resource.value,
        "action": action.action,
        "scope": action.scope.value,
        "status": action.status.value,
        "metadata": short_facts(action.facts),
    }
    rows = [row | {"resource_id": short(resource_id)} for resource_id in resource_ids]
    await tx.execute(insert(audit_logs).values(rows))


def record_cte(
    changed: CTE,
    actor: Actor | ColumnElement[Any],
    action: AuditAction,
    *,
    resource_id: ColumnElement[str],
    where: ColumnElement[bool] | None = None,
    facts: ColumnElement[Any] | None = None,
    name: str = "recorded",
) -> CTE:
    """Build the CTE that inserts an entry for each row of `changed`; add it to the statement with `add_cte`.

    `changed` has `team_id`. `actor` may be a column with `actor_json`, NULL for the system. `facts` go beside those of the
    action.
    """
    rows = select(
        changed.c.team_id,
        *_actor_columns(actor),
        literal(action.resource.value, Text),
        cast(resource_id, Text),
        literal(action.action, Text),
        literal(action.scope.value, Text),
        literal(action.status.value, Text),
        literal(short_facts(action.facts), JSONB).op("||")(
            facts if facts is not None else literal({}, JSONB)
        ),
    ).select_from(changed)
    if where is not None:
        rows = rows.where(where)
    return insert(audit_logs).from_select(_WRITTEN, rows).cte(name)


def wire_id(prefix: str, column: ColumnElement[Any]) -> ColumnElement[str]:
    """SQL expression: an id in its form on the wire, as `str(Id)` returns it."""
    return func.wrenn_wire_id(prefix, column, type_=Text)


def actor_json(actor: Actor) -> Mapping[str, str] | None:
    """Convert an actor to the JSON that a column stores until the action is performed; None: the system."""
    if actor.kind is ActorKind.SYSTEM:
        return None
    return {"type": actor.kind.value, "id": actor.actor_id, "name": short(actor.name)}


def _actor_columns(actor: Actor | ColumnElement[Any]) -> list[ColumnElement[Any]]:
    if isinstance(actor, Actor):
        return [literal(text, Text) for text in (actor.kind.value, actor.actor_id, short(actor.name))]
    return [
        func.coalesce(actor["type"].astext, literal(ActorKind.SYSTEM.value, Text)),
        func.coalesce(actor["id"].astext, literal("", Text)),
        func.coalesce(actor["name"].astext, literal("", Text)),
    ]
