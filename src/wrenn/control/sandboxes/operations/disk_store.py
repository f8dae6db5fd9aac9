"""Statement that writes the size of a sandbox's disk."""

from __future__ import annotations

from sqlalchemy import func, select, update

from wrenn.base.ids import SandboxId
from wrenn.control.audit import Actor, AuditAction, Resource, Status, record_cte, wire_id
from wrenn.control.db import Hints, Transaction
from wrenn.control.sandboxes.records import Sandbox
from wrenn.control.sandboxes.store import sandbox_of, select_sandboxes
from wrenn.control.sandboxes.tables import sandboxes

_c = sandboxes.c


async def write_disk_size(
    tx: Transaction, hints: Hints, sandbox_id: SandboxId, disk_size_mb: int, *, by: Actor
) -> Sandbox:
    """Store a new disk size with an entry in the audit log; the state does not change."""
    changed = (
        update(sandboxes)
        .where(_c.id == sandbox_id.value)
        .values(disk_size_mb=disk_size_mb, last_updated=func.now())
        .returning(_c.id, _c.team_id)
        .cte("changed")
    )
    entry = record_cte(
        changed,
        by,
        AuditAction(Resource.SANDBOX, "set_disk", Status.INFO, facts={"disk_size_mb": disk_size_mb}),
        resource_id=wire_id(SandboxId.PREFIX, changed.c.id),
    )
    await tx.execute(select(changed.c.id).add_cte(entry))
    found = await tx.execute(select_sandboxes().add_columns(hints.notify()).where(_c.id == sandbox_id.value))
    return sandbox_of(found.one())
