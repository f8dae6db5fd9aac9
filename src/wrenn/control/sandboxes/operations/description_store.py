"""Statements that write the name, the owner's metadata and the public ports of a sandbox."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from sqlalchemy import func, select, update

from wrenn.base.ids import SandboxId
from wrenn.control.audit import Actor, AuditAction, Resource, Status, record_cte, wire_id
from wrenn.control.db import Hints, Transaction
from wrenn.control.sandboxes.records import Sandbox
from wrenn.control.sandboxes.store import sandbox_of, select_sandboxes
from wrenn.control.sandboxes.tables import sandboxes

_c = sandboxes.c


async def write_description(
    tx: Transaction, sandbox_id: SandboxId, *, name: str, labels: Mapping[str, str], by: Actor
) -> Sandbox:
    """Store a name and metadata, with an entry in the audit log that has the name; the state does not change."""
    action = AuditAction(Resource.SANDBOX, "set_description", Status.INFO, facts={"name": name})
    return await _write(tx, sandbox_id, {"name": name, "labels": dict(labels)}, action, by)


async def write_public_ports(
    tx: Transaction, sandbox_id: SandboxId, ports: Sequence[int], *, by: Actor, hints: Hints
) -> Sandbox:
    """Store which ports anybody may visit, with an entry in the audit log that has them; the state does not change.

    A sandbox whose ports were all public has only these afterwards.

    Replicas forget what they know of the sandbox, so that a port that is not public any more is closed at once.
    """
    facts = {"ports": ", ".join(map(str, ports))}
    action = AuditAction(Resource.SANDBOX, "set_public_ports", Status.INFO, facts=facts)
    await tx.execute(select(hints.notify()))
    return await _write(tx, sandbox_id, {"public_ports": list(ports), "all_ports_public": False}, action, by)


async def _write(
    tx: Transaction, sandbox_id: SandboxId, values: Mapping[str, object], action: AuditAction, by: Actor
) -> Sandbox:
    changed = (
        update(sandboxes)
        .where(_c.id == sandbox_id.value)
        .values(**values, last_updated=func.now())
        .returning(_c.id, _c.team_id)
        .cte("changed")
    )
    entry = record_cte(changed, by, action, resource_id=wire_id(SandboxId.PREFIX, changed.c.id))
    await tx.execute(select(changed.c.id).add_cte(entry))
    return sandbox_of((await tx.execute(select_sandboxes().where(_c.id == sandbox_id.value))).one())
