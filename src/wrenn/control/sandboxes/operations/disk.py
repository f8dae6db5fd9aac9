"""Makes the disk of a sandbox larger, and with it the sandbox's share of its host's disk."""

from __future__ import annotations

from typing import Final

from wrenn.base.errors import InvalidRequest, InvalidState
from wrenn.control.audit import Actor
from wrenn.control.auth import Credential
from wrenn.control.db import Hints, Transaction
from wrenn.control.hosts import HostClients
from wrenn.control.sandboxes import desired_state_store
from wrenn.control.sandboxes.lookup import Lookup
from wrenn.control.sandboxes.operations import disk_store
from wrenn.control.sandboxes.operations.capacity import Capacity
from wrenn.control.sandboxes.records import Sandbox

_SET_TIMEOUT_S: Final = 60.0
"""A second for some ten GB under emulation; one of a sandbox that is being paused or resumed waits for that."""


class Disks:
    """Changes disk sizes: first the row, which reserves the space, then the host.

    A host that misses a change is told again when the request is repeated; until then the row promises more than there is.
    """

    def __init__(
        self, *, hints: Hints, clients: HostClients, lookup: Lookup, capacity: Capacity, disk_max_mb: int
    ) -> None:
        self._hints = hints
        self._clients = clients
        self._lookup = lookup
        self._capacity = capacity
        self._disk_max_mb = disk_max_mb

    async def set_disk(self, credential: Credential, text_id: str, disk_size_mb: int) -> Sandbox:
        """Make the disk of a running or paused sandbox larger; returns when the guest of a running one sees it.

        Not an activity. The size that it has is told to the host all the same.

        Raises:
            InvalidRequest: smaller than it is, or larger than the installation allows; nothing was changed.
            InvalidState: it neither runs nor is paused. NoCapacity: its host has no room; nothing was changed.
            StorageFull: it is suspended, and this is not enough for it to continue. Unavailable: its host does not answer: repeat it.
        """
        found = await self._lookup.locate(credential, text_id)
        by, sandbox_id = found.caller.actor, found.sandbox.sandbox_id
        changed = await self._capacity.transaction(
            lambda tx: self._write(tx, found.sandbox, disk_size_mb, by)
        )
        client = self._clients.at(found.host)
        await client.set_disk(sandbox_id, disk_size_mb=disk_size_mb, timeout_s=_SET_TIMEOUT_S)
        return changed

    async def _write(self, tx: Transaction, sandbox: Sandbox, disk_size_mb: int, by: Actor) -> Sandbox:
        sandbox_id = sandbox.sandbox_id
        # The order of locks is that of creates: placement first.
        available = await self._capacity.lock_and_read(tx, sandbox.team_id)
        now = await desired_state_store.lock_to_change(
            tx, sandbox_id, only="the disk of one that runs or is paused can be made larger"
        )
        if now.is_moving:
            raise InvalidState(
                f"Sandbox {sandbox_id} is {now.state_text}: its disk can be made larger afterwards."
            )
        if not now.disk_size_mb <= disk_size_mb <= self._disk_max_mb:
            raise InvalidRequest(
                f"disk_size_mb: must be between {now.disk_size_mb}, which it has, and {self._disk_max_mb}."
            )
        if disk_size_mb == now.disk_size_mb:
            return now
        await available.require_larger_disk(now.host_id, more_mb=disk_size_mb - now.disk_size_mb)
        return await disk_store.write_disk_size(tx, self._hints, sandbox_id, disk_size_mb, by=by)
