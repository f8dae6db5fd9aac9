"""Statement that writes the name and the owner's metadata of a sandbox."""

from __future__ import annotations

from collections.abc import Mapping

from sqlalchemy import func, select, update

from wrenn.base.ids import SandboxId
from wrenn.control.audit import Actor, AuditAction, Resource, Status, record_cte, wire_id
from wrenn.control.db import Transaction
from wrenn.control.sandboxes.records import Sandbox
from wrenn.control.sandboxes.store import sandbox_of, select_sandboxes
from wrenn.control.sandboxes.tables import sandboxes

_c = sandboxes.c


async def write_description(
    tx: Transaction, sandbox_id: SandboxId, *, name: str, labels: Mapping[str, str], by: Actor
) -> Sandbox:
    """Store a name and metadata, with an entry in the audit log that has the name; the state does not change."""
    changed = (
        update(sandboxes)
        .where(_c.id == sandbox_id.value)
        .values(name=name, labels=dict(labels), last_updated=func.now())
        .returning(_c.id, _c.team_id)
        .cte("changed")
    )
    entry = record_cte(
        changed,
        by,
        AuditAction(Resource.SANDBOX, "set_description", Status.INFO, facts={"name": name}),
        resource_id=wire_id(SandboxId.PREFIX, changed.c.id),
    )
    await tx.execute(select(changed.c.id).add_cte(entry))
    return sandbox_of((await tx.execute(select_sandboxes().where(_c.id == sandbox_id.value))).one())
