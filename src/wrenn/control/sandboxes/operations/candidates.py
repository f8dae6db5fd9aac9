"""Proposes hosts for a sandbox, from a view of all hosts that may be some seconds old.

With many hosts a create cannot read them all under the placement lock. It reads only those that are proposed here, and is placed
by what these are then: the view being old costs a worse choice, or a second proposal, and never capacity that does not exist.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Collection, Sequence
from typing import Final

from wrenn.base.ids import HostId
from wrenn.base.tasks import OwnedTasks
from wrenn.control.db import Database
from wrenn.control.hosts import RecentHosts
from wrenn.control.placement import Load, Overcommit, Verdict, Wanted, judge, ranked
from wrenn.control.sandboxes.operations import placement_store
from wrenn.control.sandboxes.operations.placement_store import HostLoads
from wrenn.control.sandboxes.reconcile.back_off import BackOff

FEW_HOSTS: Final = 16
"""So many are read for each create, which costs no more than to read those proposed from a view."""
_PROPOSED: Final = 4
_COMPARED: Final = 32
"""Hosts that could take the sandbox, in turn; the best of them are proposed. To compare a thousand would take 10 ms, and all
creates of a moment would be proposed the same few."""
_READ_AT_ONCE: Final = 64
"""Hosts whose sandboxes are summed up by one read of the view: a thousand take sixteen reads, each of a few milliseconds."""
_VIEW_LIFE_S: Final = 1.0
_VIEW_SHARE: Final = 0.05
"""The greatest share of the time that is spent on reading the view."""


class Candidates:
    """The view of all hosts that one replica has, and proposals from it."""

    def __init__(
        self, database: Database, hosts: RecentHosts, overcommit: Overcommit, back_off: BackOff
    ) -> None:
        self._database = database
        self._hosts = hosts
        self._overcommit = overcommit
        self._back_off = back_off
        self._view: HostLoads | None = None
        self._due_s = 0.0
        self._reads = 0
        self._one_read = asyncio.Lock()
        # Where the next proposal begins to look, and where the next read.
        self._first = 0
        self._next_read = 0
        self._tasks = OwnedTasks()

    async def close(self) -> None:
        """Stop reading."""
        await self._tasks.close()

    @property
    def are_few(self) -> bool:
        """Whether all hosts are to be read, because they are few, or not known yet."""
        return self._view is None or len(self._view.hosts) <= FEW_HOSTS

    def propose(self, wanted: Wanted) -> tuple[Sequence[HostId], Sequence[Verdict]]:
        """Return the ids of hosts that could take the sandbox, and the verdicts on those that were looked at: on all, if none could."""
        if self._view is None:
            return (), ()
        if asyncio.get_running_loop().time() >= self._due_s and not self._one_read.locked():
            self._tasks.start("read hosts for placement", self._refresh_some())
        hosts = list(self._view.hosts.values())
        first = self._first % max(1, len(hosts))
        in_turn = itertools.chain(hosts[first:], hosts[:first])
        verdicts: list[Verdict] = []
        possible: list[Verdict] = []
        for verdict in judge(
            in_turn, self._view.loads, wanted, self._overcommit, backed_off=self._back_off.hosts()
        ):
            verdicts.append(verdict)
            if verdict.removed_by is None:
                possible.append(verdict)
                if len(possible) == _COMPARED:
                    break
        self._first = first + len(verdicts)
        return [host.host_id for host in ranked(possible)[:_PROPOSED]], verdicts

    def correct(self, asked: Collection[HostId], found: HostLoads) -> None:
        """Enter into the view what was read of some hosts; those that were not found are gone."""
        if self._view is None:
            return
        for host_id in asked:
            if host_id not in found.hosts:
                self._view.hosts.pop(host_id, None)
                self._view.loads.pop(host_id, None)
        self._view.hosts.update(found.hosts)
        self._view.loads.update(found.loads)

    def add(self, host_id: HostId, wanted: Wanted) -> None:
        """Enter a sandbox into the view that is being placed."""
        if self._view is not None and host_id in self._view.hosts:
            load = self._view.loads[host_id]
            self._view.loads[host_id] = Load(
                sandboxes=load.sandboxes + wanted.count,
                memory_mb=load.memory_mb + wanted.count * wanted.memory_mb,
                disk_mb=load.disk_mb + wanted.count * wanted.disk_mb,
                disks=load.disks + (wanted.count if wanted.disk_mb else 0),
                vcpus=load.vcpus + wanted.count * wanted.vcpus,
                creates=load.creates + wanted.count,
            )

    def replace(self, view: HostLoads) -> None:
        """Take what was read of all hosts as the view."""
        self._view = view

    async def refresh(self) -> None:
        """Read all hosts, without a lock. Concurrent callers share a read that begins after they called.

        Raises:
            DatabaseUnavailable: the view stays as it was.
        """
        mine = self._reads + 1
        async with self._one_read:
            if self._reads >= mine:
                return
            self._reads += 1
            self.replace(await self._read(None))

    async def _refresh_some(self) -> None:
        """Read which hosts there are, and of some of them, in turn, what is promised there."""
        async with self._one_read:
            time_s = asyncio.get_running_loop().time
            begun_s = time_s()
            try:
                hosts = {host.host_id: host for host in await self._hosts.read()}
                if self._view is None or not hosts:
                    return
                order = list(hosts)
                first = self._next_read % len(order)
                self._next_read = first + _READ_AT_ONCE
                new = (host_id for host_id in order if host_id not in self._view.loads)
                in_turn = itertools.chain(new, order[first:], order[:first])
                some = list(dict.fromkeys(itertools.islice(in_turn, _READ_AT_ONCE)))
                found = await self._read(some)
                loads = {host_id: load for host_id, load in self._view.loads.items() if host_id in hosts}
                self.replace(HostLoads({host_id: hosts[host_id] for host_id in loads}, loads))
                self.correct(some, found)
            finally:
                now_s = time_s()
                self._due_s = now_s + max(_VIEW_LIFE_S, (now_s - begun_s) / _VIEW_SHARE)

    async def _read(self, host_ids: Collection[HostId] | None) -> HostLoads:
        # Where the template was started is read of those that are proposed.
        return await self._database.transaction(
            lambda tx: placement_store.host_loads(tx, template="", host_ids=host_ids)
        )
