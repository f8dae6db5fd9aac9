"""Reads the free capacity of hosts and the team's quota, in the caller's transaction under the placement lock.

Two requests never count the same capacity twice. The checks themselves are `placement.choose_host` and
`quotas.QuotaStatus.require_within_quota`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace
from typing import Final, TypeVar

from wrenn.base.errors import NoCapacity, NotFound, Unavailable
from wrenn.base.ids import HostId, TeamId
from wrenn.control.db import Database, Transaction
from wrenn.control.hosts import Host, Monitor, RecentHosts
from wrenn.control.placement import (
    Overcommit,
    Verdict,
    Wanted,
    answers,
    check_larger_disk,
    choose_host,
    judge,
    ranked,
    refusal,
)
from wrenn.control.quotas import Limits, QuotaStatus, Usage
from wrenn.control.sandboxes.operations import placement_store, quota_status_store
from wrenn.control.sandboxes.operations.candidates import Candidates
from wrenn.control.sandboxes.operations.placement_store import HostLoads
from wrenn.control.sandboxes.reconcile.back_off import BackOff
from wrenn.control.templates import Reference, Template, TemplateType, find_template

T = TypeVar("T")


_PROPOSALS: Final = 4
"""How often other hosts are proposed under the lock, when those before turned out to be full."""


@dataclass(frozen=True, slots=True)
class Admission:
    """Decides, under the placement lock, whether and where a team's sandbox may be; valid until the transaction ends.

    Attributes:
        on_own_hosts: the team brings its own hosts (BYOC): new sandboxes run on no other.
    """

    tx: Transaction
    team_id: TeamId
    on_own_hosts: bool
    team: QuotaStatus
    overcommit: Overcommit
    candidates: Candidates
    back_off: BackOff
    uploads_snapshots: bool

    async def choose_for(self, template: Template, wanted: Wanted) -> Host:
        """Choose a host for a sandbox from this template. Raises as `choose`."""
        source = None
        if template.type is TemplateType.SNAPSHOT and template.host_id is not None:
            source = await self.find_host(template.host_id)
        wanted = replace(wanted, on_own_hosts=self.on_own_hosts)
        return await self.choose(
            wanted_of(template, wanted, source=source, uploads_snapshots=self.uploads_snapshots)
        )

    async def choose(self, wanted: Wanted) -> Host:
        """Choose a host with enough free capacity.

        Raises:
            NoCapacity, NotFound, Unavailable: as `placement.refusal`.
        """
        wanted = replace(wanted, team_id=self.team_id, on_own_hosts=self.on_own_hosts)
        if wanted.host_id is not None:
            return await self.choose_among(wanted, [wanted.host_id])
        if self.candidates.are_few:
            found = await self._read(wanted, None)
            self.candidates.replace(found)
            return self._best(wanted, found)
        for _ in range(_PROPOSALS):
            proposed, verdicts = self.candidates.propose(wanted)
            proposed = [*dict.fromkeys([*sorted(wanted.files_on, key=str), *proposed])]
            if not proposed:
                raise refusal(verdicts, wanted)
            found = await self._read(wanted, proposed)
            self.candidates.correct(proposed, found)
            best = ranked(
                judge(
                    found.hosts.values(),
                    found.loads,
                    wanted,
                    self.overcommit,
                    backed_off=self.back_off.hosts(),
                )
            )
            if best:
                self.candidates.add(best[0].host_id, wanted)
                return best[0]
        raise NoCapacity("The hosts are filling up at this moment. Try again in some seconds.")

    async def choose_among(self, wanted: Wanted, host_ids: Sequence[HostId]) -> Host:
        """Choose one of these hosts. Raises as `choose`."""
        wanted = replace(wanted, team_id=self.team_id, on_own_hosts=self.on_own_hosts)
        return self._best(wanted, await self._read(wanted, host_ids))

    def _best(self, wanted: Wanted, found: HostLoads) -> Host:
        return choose_host(
            list(found.hosts.values()),
            found.loads,
            wanted,
            self.overcommit,
            backed_off=self.back_off.hosts(),
        )

    async def find_host(self, host_id: HostId) -> Host | None:
        """Return a host; None: there is none."""
        return (await placement_store.host_loads(self.tx, template="", host_ids=[host_id])).hosts.get(host_id)

    async def _read(self, wanted: Wanted, host_ids: Sequence[HostId] | None) -> HostLoads:
        return await placement_store.host_loads(self.tx, template=wanted.template, host_ids=host_ids)

    async def require_larger_disk(self, host_id: HostId, *, more_mb: int) -> None:
        """Return if a disk on this host may grow by `more_mb`.

        Raises:
            NoCapacity: it may not.
        """
        found = await placement_store.host_loads(self.tx, template="", host_ids=[host_id])
        host = found.hosts.get(host_id)
        if host is None:
            raise Unavailable("Its host is not there any more.")
        check_larger_disk(host, found.loads[host_id], more_mb, self.overcommit)


def wanted_of(template: Template, wanted: Wanted, *, source: Host | None, uploads_snapshots: bool) -> Wanted:
    """Return what is to be placed for a sandbox from this template: a snapshot has one size, and a host where it was taken.

    `source`: that host, if it is not deleted.
    """
    wanted = replace(wanted, template=template.image)
    if template.type is TemplateType.BASE:
        return replace(wanted, is_obtainable=template.image_id is not None, host_id=template.host_id)
    wanted = replace(
        wanted,
        vcpus=template.vcpus,
        memory_mb=template.memory_mb,
        disk_mb=template.disk_size_mb,
        platform=template.vm_platform,
    )
    if _is_obtainable(template, source, on_own_hosts=wanted.on_own_hosts, uploads=uploads_snapshots):
        assert template.host_id is not None, "a snapshot has a host"
        return replace(wanted, is_obtainable=True, files_on=template.copies | {template.host_id})
    return replace(wanted, host_id=template.host_id)


def _is_obtainable(template: Template, source: Host | None, *, on_own_hosts: bool, uploads: bool) -> bool:
    """Whether other hosts than that where it was taken can get this snapshot."""
    if source is not None and source.team_id is not None and not on_own_hosts:
        # What was saved on a team's own host is not restored on a host of the platform.
        return False
    can_be_uploaded = uploads and not template.is_layer and source is not None and answers(source)
    return template.stored_image_id is not None or can_be_uploaded


def added_usage(vcpus: int, memory_mb: int, *, count: int = 1, new: int = 0) -> Usage:
    """Compute what `count` running sandboxes of this size add to a team's usage; `new` of them are created now, the others resumed."""
    return Usage(
        running_sandboxes=count,
        total_sandboxes=new,
        vcpus=count * vcpus,
        memory_mb=count * memory_mb,
        creates_per_second=new,
    )


class Capacity:
    """Reads the capacity of hosts and the quota of a team under the placement lock. `defaults`: the limits of a team that has none of its own."""

    def __init__(
        self,
        database: Database,
        hosts: RecentHosts,
        monitor: Monitor,
        *,
        overcommit: Overcommit,
        defaults: Limits,
        back_off: BackOff,
        uploads_snapshots: bool,
    ) -> None:
        self._database = database
        self._monitor = monitor
        self._overcommit = overcommit
        self._back_off = back_off
        self._candidates = Candidates(database, hosts, overcommit, back_off)
        self._defaults = defaults
        self._uploads_snapshots = uploads_snapshots
        # The placement lock admits one transaction at a time anyway; waiting here needs no connection.
        self._one_at_a_time = asyncio.Lock()

    async def close(self) -> None:
        """Stop the background tasks."""
        await self._candidates.close()

    async def transaction(self, work: Callable[[Transaction], Awaitable[T]]) -> T:
        """Run a transaction that calls `lock_and_read` or `lock`; this replica runs one at a time."""
        async with self._one_at_a_time:
            return await self._database.transaction(work)

    async def transaction_asking_hosts(self, work: Callable[[Transaction], Awaitable[T]]) -> T:
        """Like `transaction`; if there is no host for the request, look at hosts and run it once more.

        The stored state of the hosts may be some seconds old: a host may be back, or have a new template. Requests share
        that look at the hosts (`Monitor.look_recently`). Of many hosts only those are looked at that do not answer.
        """
        try:
            return await self.transaction(work)
        except (NoCapacity, NotFound, Unavailable):
            await self._monitor.look_recently(everywhere=self._candidates.are_few)
            if not self._candidates.are_few:
                await self._candidates.refresh()
            return await self.transaction(work)

    @staticmethod
    async def lock(tx: Transaction) -> None:
        """Take the placement lock: nothing is placed on any host until this transaction ends. Before any other lock."""
        await placement_store.lock_placement(tx)

    async def lock_and_read(self, tx: Transaction, team_id: TeamId) -> Admission:
        """Take the placement lock and read the team's quota; nobody else is admitted until the transaction ends."""
        await placement_store.lock_placement(tx)
        found = (await tx.execute(quota_status_store.QUOTA_STATUS, {"team_id": team_id.value})).one()
        return Admission(
            tx,
            team_id,
            on_own_hosts=bool(found.is_byoc),
            team=quota_status_store.quota_status_of(found, self._defaults),
            overcommit=self._overcommit,
            candidates=self._candidates,
            back_off=self._back_off,
            uploads_snapshots=self._uploads_snapshots,
        )

    async def explain(self, wanted: Wanted) -> tuple[Wanted, list[Verdict]]:
        """Say for each host which filter keeps this sandbox from it, or how well it suits; nothing is reserved.

        With what was asked for, as it would be placed: a sandbox from a snapshot has the snapshot's size.
        """

        async def judge_all(tx: Transaction) -> tuple[Wanted, list[Verdict]]:
            asked = wanted
            if asked.team_id is not None:
                reference = Reference.parse(asked.template, field="template")
                template = await find_template(tx, asked.team_id, reference)
                if template is not None:
                    asked = await self._wanted_of(tx, template, asked)
            found = await placement_store.host_loads(tx, template=asked.template)
            return asked, list(
                judge(
                    found.hosts.values(),
                    found.loads,
                    asked,
                    self._overcommit,
                    backed_off=self._back_off.hosts(),
                )
            )

        return await self._database.transaction(judge_all)

    async def _wanted_of(self, tx: Transaction, template: Template, wanted: Wanted) -> Wanted:
        source = None
        if template.host_id is not None:
            found = await placement_store.host_loads(tx, template="", host_ids=[template.host_id])
            source = found.hosts.get(template.host_id)
        return wanted_of(template, wanted, source=source, uploads_snapshots=self._uploads_snapshots)

    async def quota_status(self, team_id: TeamId) -> QuotaStatus:
        """Read a team's limits and usage without a lock, for display."""
        found = await self._database.execute(
            quota_status_store.QUOTA_STATUS, {"team_id": team_id.value}, repeatable=True
        )
        return quota_status_store.quota_status_of(found.one(), self._defaults)

    async def require_owner_has_capacity(self, tx: Transaction, team_id: TeamId) -> None:
        """Check that what the team has fits into the quotas of its owner, whom it has from this transaction on.

        Without the placement lock, which is taken before a team's: a create in this moment may exceed a limit.

        Raises:
            QuotaExceeded: it does not fit.
        """
        found = await tx.execute(quota_status_store.QUOTA_STATUS, {"team_id": team_id.value})
        quota_status_store.quota_status_of(found.one(), self._defaults).require_owner_has_capacity()
