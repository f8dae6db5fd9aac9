"""Statement that writes the network policy of a sandbox."""

from __future__ import annotations

from sqlalchemy import func, select, update

from wrenn.base.ids import SandboxId
from wrenn.control.audit import Actor, AuditAction, Resource, Status, record_cte, wire_id
from wrenn.control.db import Hints, Transaction
from wrenn.control.sandboxes.records import NetworkPolicy, Sandbox
from wrenn.control.sandboxes.store import sandbox_of, select_sandboxes
from wrenn.control.sandboxes.tables import sandboxes

_c = sandboxes.c


async def write_network(
    tx: Transaction, hints: Hints, sandbox_id: SandboxId, policy: NetworkPolicy, *, by: Actor
) -> Sandbox:
    """Store a new policy under the next revision, with an entry in the audit log; the state does not change."""
    changed = (
        update(sandboxes)
        .where(_c.id == sandbox_id.value)
        .values(
            network=policy.to_json(),
            network_revision=_c.network_revision + 1,
            last_updated=func.now(),
        )
        .returning(_c.id, _c.team_id)
        .cte("changed")
    )
    facts = {
        "allow_internet": policy.allow_internet,
        "allow": " ".join(policy.allow),
        "deny": " ".join(policy.deny),
    }
    entry = record_cte(
        changed,
        by,
        AuditAction(Resource.SANDBOX, "set_network", Status.INFO, facts=facts),
        resource_id=wire_id(SandboxId.PREFIX, changed.c.id),
    )
    await tx.execute(select(changed.c.id).add_cte(entry))
    found = await tx.execute(select_sandboxes().add_columns(hints.notify()).where(_c.id == sandbox_id.value))
    return sandbox_of(found.one())
