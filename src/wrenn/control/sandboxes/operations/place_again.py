"""Places a sandbox on another host when its host answered that it has no room."""

from __future__ import annotations

from wrenn.base.errors import NoCapacity, NotFound
from wrenn.base.ids import ImageId
from wrenn.control.db import Hints, Transaction
from wrenn.control.placement import Wanted
from wrenn.control.sandboxes.operations.capacity import Capacity
from wrenn.control.sandboxes.reconcile import work_store
from wrenn.control.sandboxes.reconcile.back_off import BackOff
from wrenn.control.sandboxes.records import Work


class PlacingAgain:
    """Places refused sandboxes again. `owner` names this replica's leases."""

    def __init__(self, *, capacity: Capacity, hints: Hints, back_off: BackOff, owner: str) -> None:
        self._capacity = capacity
        self._hints = hints
        self._back_off = back_off
        self._owner = owner

    async def place_again(self, work: Work) -> bool:
        """Place a leased sandbox on a host that refused nothing lately, and give the lease up; False: there is none.

        Nothing of it may be on its former host, and it starts from an image, which lies on many hosts.
        """
        wanted = Wanted(
            work.origin.image,
            work.spec.vcpus,
            work.spec.memory_mb,
            work.spec.disk_size_mb,
            host_tags=frozenset(work.spec.host_tags),
            is_obtainable=ImageId.find(work.origin.image) is not None,
        )

        async def move(tx: Transaction) -> bool:
            host = await (await self._capacity.lock_and_read(tx, work.team_id)).choose(wanted)
            if host.host_id in self._back_off.hosts():
                return False
            return await work_store.move_to_host(tx, self._hints, work, host.host_id, owner=self._owner)

        try:
            return await self._capacity.transaction(move)
        except (NoCapacity, NotFound):
            return False
