"""Changes what only the control plane knows of a sandbox: its name, metadata and public ports."""

from __future__ import annotations

from wrenn.base.errors import InvalidRequest, InvalidState
from wrenn.control.auth import Credential
from wrenn.control.db import Database, Hints, Transaction
from wrenn.control.sandboxes import desired_state_store
from wrenn.control.sandboxes.lookup import Lookup
from wrenn.control.sandboxes.operations import description_store
from wrenn.control.sandboxes.records import Sandbox
from wrenn.control.sandboxes.state import ENDED, Desired
from wrenn.control.sandboxes.types import PUBLIC_PORTS_LIMIT, ChangeSandbox


class DescriptionChanges:
    """Changes names, metadata and public ports of sandboxes. Hosts and guests do not know them."""

    def __init__(self, *, database: Database, hints: Hints, lookup: Lookup) -> None:
        self._database = database
        self._hints = hints
        self._lookup = lookup

    async def change(self, credential: Credential, text_id: str, body: ChangeSandbox) -> Sandbox:
        """Change name, metadata and public ports; what is absent keeps its value. This does not count as activity.

        Raises:
            InvalidState: it has ended, or is being removed; or single ports are to be changed, and all are public.
            InvalidRequest: too many ports would be public.
        """
        found = await self._lookup.locate(credential, text_id)
        sandbox_id = found.sandbox.sandbox_id

        async def change(tx: Transaction) -> Sandbox:
            locked = await desired_state_store.lock(tx, sandbox_id)
            assert locked is not None, "rows are kept"
            now, _ = locked
            if now.status in ENDED or now.desired is Desired.STOPPED:
                raise InvalidState(f"Sandbox {sandbox_id} is {now.state_text}.")
            name = now.name if body.name is None else body.name
            labels = now.labels if body.metadata is None else body.metadata
            by = found.caller.actor
            if (name, dict(labels)) != (now.name, dict(now.labels)):
                now = await description_store.write_description(
                    tx, sandbox_id, name=name, labels=labels, by=by
                )
            ports = _public_ports(now, body)
            if ports is not None and (ports != now.ingress.public_ports or now.ingress.all_ports_public):
                now = await description_store.write_public_ports(
                    tx, sandbox_id, ports, by=by, hints=self._hints
                )
            return now

        return await self._database.transaction(change)


def _public_ports(sandbox: Sandbox, body: ChangeSandbox) -> tuple[int, ...] | None:
    """Return which ports are to be public; None: as they are."""
    if body.public_ports is not None:
        return tuple(sorted(set(body.public_ports)))
    added, removed = set(body.add_public_ports or ()), set(body.remove_public_ports or ())
    if not added and not removed:
        return None
    if sandbox.ingress.all_ports_public:
        raise InvalidState(
            f"All ports of sandbox {sandbox.sandbox_id} are public. Give those that are to be so as public_ports."
        )
    ports = (set(sandbox.ingress.public_ports) | added) - removed
    if len(ports) > PUBLIC_PORTS_LIMIT:
        raise InvalidRequest(f"A sandbox has at most {PUBLIC_PORTS_LIMIT} public ports.")
    return tuple(sorted(ports))
