"""Finds room on hosts, in the caller's transaction and under the placement lock: two requests never count the same room."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from wrenn.base.ids import HostId
from wrenn.control.db import Transaction
from wrenn.control.hosts import Host, all_hosts_in
from wrenn.control.placement import Load, Overcommit, Wanted, choose_host
from wrenn.control.sandboxes import placing_store


@dataclass(frozen=True, slots=True)
class Census:
    """The hosts, and what is promised on each; true until the transaction ends."""

    hosts: Sequence[Host]
    loads: Mapping[HostId, Load]
    overcommit: Overcommit

    def choose(self, wanted: Wanted) -> Host:
        """A host that has room.

        Raises:
            NoCapacity, NotFound, Unavailable: as `choose_host`.
        """
        return choose_host(self.hosts, self.loads, wanted, self.overcommit)


class Room:
    """See the module head."""

    def __init__(self, overcommit: Overcommit) -> None:
        self._overcommit = overcommit

    async def count(self, tx: Transaction) -> Census:
        """What there is now; nobody else counts until the transaction ends."""
        await placing_store.lock_placement(tx)
        return Census(await all_hosts_in(tx), await placing_store.loads(tx), self._overcommit)
