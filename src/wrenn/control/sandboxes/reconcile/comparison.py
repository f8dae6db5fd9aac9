"""Compares the database with what each host's agent reports, and corrects the differences.

The rows are read first, then the agent is asked, and a row is written only if it still has the version that was read: a
sandbox that begins to run in between is not taken for a lost one.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from wrenn.base.clock import Clock
from wrenn.base.errors import DeadlineExceeded, FilesLost, Unavailable, WrennError
from wrenn.base.ids import HostId, SandboxId
from wrenn.base.loops import Loop
from wrenn.control.db import Database, Hints
from wrenn.control.hosts import (
    REMOVALS_A_ROUND,
    FirstMet,
    Host,
    HostClient,
    HostClients,
    HostRounds,
    HostSandbox,
    HostSandboxState,
    HostStatus,
    RecentHosts,
    Visits,
    all_hosts,
)
from wrenn.control.http import wire_time
from wrenn.control.sandboxes.changes import ChangeNotifier
from wrenn.control.sandboxes.network_policy import SET_TIMEOUT_S, host_policy
from wrenn.control.sandboxes.reconcile import comparison_store
from wrenn.control.sandboxes.reconcile.fencing import Fenced, fence, must_give_way, removable_generation
from wrenn.control.sandboxes.reconcile.reconciler import Reconciler
from wrenn.control.sandboxes.records import Sandbox
from wrenn.control.sandboxes.state import Desired, State

_log = logging.getLogger(__name__)

_LIST_TIMEOUT_S: Final = 10.0
_REMOVE_TIMEOUT_S: Final = 30.0
_NETWORKS_AT_ONCE: Final = 16
"""Policies that one host is told at once."""
_AGREEMENT_LIFE_S: Final = 3600.0
"""A host is asked for its list at least so often, although neither its digest nor its rows have changed."""
LOST: Final = "The virtual machine is not on its host any more."
FILES_LOST: Final = "The files of the paused sandbox are not on its host any more."


@dataclass(frozen=True, slots=True)
class ComparisonSettings:
    """Intervals and grace periods of the comparison.

    Attributes:
        interval_s: between two looks.
        grace_s: for so long nothing is concluded from a sandbox without a row, or from a paused one that its host does not
            name.
    """

    interval_s: float
    grace_s: float


@dataclass(frozen=True, slots=True)
class _Agreement:
    """A host had this version and its rows this digest when they agreed in everything, at this time."""

    version: object
    rows_digest: str
    at: float


class Comparison:
    """Compares the database with what each host reports, and corrects what differs. Safe to run twice and on two replicas."""

    def __init__(
        self,
        *,
        database: Database,
        hosts: RecentHosts,
        hints: Hints,
        clients: HostClients,
        changes: ChangeNotifier,
        reconciler: Reconciler,
        clock: Clock,
        settings: ComparisonSettings,
    ) -> None:
        self._database = database
        self._hosts = hosts
        self._hints = hints
        self._clients = clients
        self._changes = changes
        self._reconciler = reconciler
        self._clock = clock
        self._settings = settings
        self.loop = Loop("compare with hosts")
        self._rounds = HostRounds("compare with hosts")
        # Lost, ended and unknown sandboxes of hosts, and paused ones that their host does not name.
        self._unwanted: FirstMet[SandboxId] = FirstMet()
        self._absent: FirstMet[SandboxId] = FirstMet()
        self._visits = Visits(clock, self._version)
        self._agreements: dict[HostId, _Agreement] = {}

    async def run(self) -> None:
        """Compare those hosts at an interval where something may have changed, until cancelled."""
        try:
            await self.loop.run(self._compare_due, every_s=self._settings.interval_s)
        finally:
            await self._rounds.close()

    async def compare_once(self) -> None:
        """Compare all hosts now; as `HostRounds.run`."""
        hosts = await all_hosts(self._database)
        self._keep(hosts)
        await self._rounds.run(hosts, self._compare)

    async def record_activity(self, host_id: HostId, active: Mapping[SandboxId, float]) -> None:
        """Store when sandboxes were used last (Unix time, seconds), as their host says with a heartbeat."""
        await comparison_store.record_activity(self._database, host_id, active)

    async def _compare_due(self) -> None:
        hosts = await self._hosts.read()
        self._keep(hosts)
        # One that does not answer is compared when it does, unless it is unreachable, which its sandboxes then are too.
        comparable = [host for host in hosts if host.is_reachable or host.status is HostStatus.UNREACHABLE]
        await self._rounds.run(self._visits.due(comparable), self._compare_unless_unchanged)

    def _keep(self, hosts: Sequence[Host]) -> None:
        self._unwanted.keep_hosts(hosts)
        self._absent.keep_hosts(hosts)
        present = {host.host_id for host in hosts}
        self._agreements = {
            host_id: agreement for host_id, agreement in self._agreements.items() if host_id in present
        }
        self._rounds.keep_hosts(hosts)

    def _version(self, host: Host) -> object:
        """What calls for a comparison when it changes: also a call that failed, since the host may have missed what it asked for."""
        return host.inventory, host.status, self._clients.at(host.endpoint).failures

    async def _compare_unless_unchanged(self, host: Host) -> None:
        """Compare a host, unless it and its rows are as they were when they agreed: then its list would say the same."""
        version = self._visits.version_of(host)
        agreement = self._agreements.get(host.host_id)
        if (
            agreement is not None
            and agreement.version == version
            and self._clock.monotonic() - agreement.at < _AGREEMENT_LIFE_S
            and agreement.rows_digest == await comparison_store.rows_digest(self._database, host.host_id)
        ):
            self._visits.settle(host, version)
        else:
            await self._compare(host)

    async def _compare(self, host: Host) -> None:
        version = self._visits.version_of(host)
        self._visits.unsettle(host.host_id)
        self._agreements.pop(host.host_id, None)
        rows_digest = await comparison_store.rows_digest(self._database, host.host_id)
        if await self._compare_with_rows(host):
            self._visits.settle(host, version)
            if host.inventory:
                self._agreements[host.host_id] = _Agreement(version, rows_digest, self._clock.monotonic())

    async def _compare_with_rows(self, host: Host) -> bool:
        """Compare one host; returns whether it agrees with the database in everything."""
        rows: Mapping[SandboxId, Sandbox] = {
            row.sandbox_id: row for row in await comparison_store.live_on_host(self._database, host.host_id)
        }
        if host.status is HostStatus.UNREACHABLE:
            return not await self._mark_missing(rows.values())
        client = self._clients.at(host.endpoint)
        try:
            reported = await client.list_sandboxes(timeout_s=_LIST_TIMEOUT_S)
        except WrennError as error:
            if not isinstance(error, Unavailable | DeadlineExceeded):
                _log.warning(
                    "host did not list its sandboxes",
                    extra={"host_id": str(host.host_id), "cause": error.message},
                )
            return False
        listed = {sandbox.sandbox_id: sandbox for sandbox in reported}
        fenced = fence(rows, listed)
        rows, seen = fenced.rows, fenced.seen
        await self._record_activity(host, rows, seen)
        absent = self._absent.update(
            host.host_id,
            [
                row.sandbox_id
                for row in rows.values()
                if (_is_paused(row) or _is_running(row)) and row.sandbox_id not in seen
            ],
            now=self._clock.monotonic(),
        )
        lost: dict[SandboxId, Sandbox] = {}
        for row in rows.values():
            on_host = seen.get(row.sandbox_id)
            if not _is_running(row) and not _is_paused(row):
                continue
            if on_host is None:
                await self._correct_absent(row, absent.get(row.sandbox_id))
            elif on_host.state is HostSandboxState.LOST:
                if _is_running(row) and row.stored_at is None:
                    lost[row.sandbox_id] = row
                else:
                    # Nothing is removed because a host calls it damaged: its files may be repaired.
                    await self._record_lost(row, on_host.reason or _reason_of(row))
            elif _is_running(row):
                await self._correct(row, on_host)
            else:
                await self._correct_paused(row, on_host)
        # Last, and side by side, because these calls may take long.
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._remove_unwanted(host, fenced, lost))
            tasks.create_task(self._resend_networks(client, rows, seen))
        return listed.keys() <= rows.keys() and all(
            _agree(row, seen.get(row.sandbox_id)) for row in rows.values()
        )

    async def _record_activity(
        self, host: Host, rows: Mapping[SandboxId, Sandbox], seen: Mapping[SandboxId, HostSandbox]
    ) -> None:
        """Store the activity that the host's heartbeats have not reported yet."""
        active: dict[SandboxId, float] = {}
        for sandbox_id, row in rows.items():
            at = seen[sandbox_id].last_active_at_unix if sandbox_id in seen else 0.0
            last = row.last_active_at.timestamp() if row.last_active_at else 0.0
            if _is_running(row) and at > last + comparison_store.ACTIVITY_STEP_S:
                active[sandbox_id] = at
        if active:
            await comparison_store.record_activity(self._database, host.host_id, active)

    async def _mark_missing(self, rows: Collection[Sandbox]) -> bool:
        """Mark the running sandboxes of an unreachable host; returns whether there were any.

        A pause in progress is left to the reconciler, which ends it; a paused sandbox needs no host.
        """
        running = [row for row in rows if row.status is State.RUNNING and row.desired is not Desired.PAUSED]
        for row in running:
            await self._set_state(row, State.MISSING)
        return bool(running)

    async def _correct_absent(self, row: Sandbox, absent_since: float | None) -> None:
        """Record that a sandbox is lost that its host does not name, if that is so for long.

        What it holds cannot be made anew: a host that has not read all its journals yet must not cost it.
        """
        now = self._clock.monotonic()
        if absent_since is not None and now - absent_since >= self._settings.grace_s:
            await self._record_lost(row, _reason_of(row))

    async def _correct(self, row: Sandbox, seen: HostSandbox) -> None:
        """Correct the row of a sandbox that should be running, and that its host does not call lost."""
        if seen.state is HostSandboxState.RUNNING:
            if row.status is State.MISSING:
                await self._set_state(row, State.RUNNING)
            elif not row.failure and row.reason != seen.reason:
                await comparison_store.record_suspended(self._database, self._hints, row, seen.reason)
                self._changes.notify(row.sandbox_id)
        elif seen.state is HostSandboxState.UNKNOWN and not row.failure and row.reason != seen.reason:
            await comparison_store.record_suspended(self._database, self._hints, row, seen.reason)
            self._changes.notify(row.sandbox_id)
        elif seen.state is HostSandboxState.PAUSED and await comparison_store.record_paused(
            self._database, self._hints, row, seen
        ):
            _log.warning(
                "sandbox was paused on its host",
                extra={"sandbox_id": str(row.sandbox_id), "cause": seen.reason},
            )
            self._changes.notify(row.sandbox_id)

    async def _resend_networks(
        self, client: HostClient, rows: Mapping[SandboxId, Sandbox], seen: Mapping[SandboxId, HostSandbox]
    ) -> None:
        at_once = asyncio.Semaphore(_NETWORKS_AT_ONCE)

        async def resend_network(row: Sandbox) -> None:
            async with at_once:
                await self._resend_network(client, row)

        older = [row for row in rows.values() if _has_older_network(row, seen.get(row.sandbox_id))]
        await asyncio.gather(*map(resend_network, older))

    async def _resend_network(self, client: HostClient, row: Sandbox) -> None:
        """Send the network policy to a host that has an older one, since it did not answer when the policy changed."""
        fields = {"sandbox_id": str(row.sandbox_id), "revision": row.network_revision}
        policy = host_policy(row.network, row.network_revision)
        try:
            await client.set_network(row.sandbox_id, policy, timeout_s=SET_TIMEOUT_S)
        except WrennError as error:
            _log.warning("network policy not put in force", extra={**fields, "cause": error.message})
        else:
            _log.warning("host had an older network policy", extra=fields)

    async def _correct_paused(self, row: Sandbox, seen: HostSandbox) -> None:
        """Correct the row of a sandbox that should be paused, and that its host does not call lost."""
        if seen.state is HostSandboxState.RUNNING and await comparison_store.record_running_unwanted(
            self._database, self._hints, row
        ):
            _log.warning("paused sandbox runs: paused again", extra={"sandbox_id": str(row.sandbox_id)})
            self._changes.notify(row.sandbox_id)
            self._reconciler.wake()
        elif seen.state is HostSandboxState.PAUSED and seen.platform != row.platform:
            await comparison_store.record_platform(self._database, self._hints, row, seen)

    async def _record_lost(self, row: Sandbox, reason: str) -> None:
        """Record that a host has lost a sandbox: it has ended, unless the store has a state of it."""
        if row.is_moving:
            return  # Whoever moves it needs no more of this host, or finds that out.
        if row.stored_at is None:
            is_written = await comparison_store.record_lost(self._database, self._hints, row, reason)
        elif row.failure == FilesLost.code:
            return
        else:
            reason += f" The store has its state of {wire_time(row.stored_at)}: it can be recovered."
            is_written = await comparison_store.record_recoverable(self._database, self._hints, row, reason)
        if is_written:
            _log.warning("sandbox lost", extra={"sandbox_id": str(row.sandbox_id), "cause": reason})
            self._changes.notify(row.sandbox_id)

    async def _remove_unwanted(self, host: Host, fenced: Fenced, lost: Mapping[SandboxId, Sandbox]) -> None:
        """Remove sandboxes that are lost, outdated or have ended; after a grace period those without a row, or of another host."""
        seen = fenced.seen
        unknown = [sandbox_id for sandbox_id in seen if sandbox_id not in fenced.rows]
        others = await comparison_store.other_rows(self._database, host.host_id, unknown) if unknown else {}
        generations = {sandbox_id: seen[sandbox_id].generation for sandbox_id in lost}
        generations |= {sandbox_id: copy.generation for sandbox_id, copy in fenced.outdated.items()}
        at_once = {*generations, *(sandbox_id for sandbox_id, row in others.items() if row.has_ended)}
        for sandbox_id in unknown:
            row = others.get(sandbox_id)
            if must_give_way(seen[sandbox_id], row):
                generations[sandbox_id] = removable_generation(seen[sandbox_id], row)
        now = self._clock.monotonic()
        first_met = self._unwanted.update(host.host_id, list(generations), now=now)
        unwanted = [
            sandbox_id
            for sandbox_id, first in first_met.items()
            if sandbox_id in at_once or now - first >= self._settings.grace_s
        ]
        client = self._clients.at(host.endpoint)
        for sandbox_id in unwanted[:REMOVALS_A_ROUND]:
            self._unwanted.postpone(host.host_id, sandbox_id)
            if not await self._remove(client, sandbox_id, generations[sandbox_id]):
                continue
            self._unwanted.forget(host.host_id, sandbox_id)
            row = lost.get(sandbox_id)
            if row is None:
                _log.warning("unwanted sandbox removed from host", extra={"sandbox_id": str(sandbox_id)})
            else:
                await self._record_lost(row, seen[sandbox_id].reason or _reason_of(row))

    async def _remove(self, client: HostClient, sandbox_id: SandboxId, generation: int) -> bool:
        try:
            await client.remove_sandbox(sandbox_id, generation=generation, timeout_s=_REMOVE_TIMEOUT_S)
        except WrennError as error:
            _log.warning("not removed", extra={"sandbox_id": str(sandbox_id), "cause": error.message})
            return False
        return True

    async def _set_state(self, row: Sandbox, state: State) -> None:
        if await comparison_store.record_state(self._database, self._hints, row, state):
            _log.warning("sandbox is %s", state, extra={"sandbox_id": str(row.sandbox_id)})
            self._changes.notify(row.sandbox_id)


def _is_running(row: Sandbox) -> bool:
    return row.desired is Desired.RUNNING and row.status in (State.RUNNING, State.MISSING)


def _is_paused(row: Sandbox) -> bool:
    return row.desired is Desired.PAUSED and row.status is State.PAUSED


def _reason_of(row: Sandbox) -> str:
    return FILES_LOST if row.status is State.PAUSED else LOST


def _has_older_network(row: Sandbox, seen: HostSandbox | None) -> bool:
    return (
        seen is not None
        and seen.state in (HostSandboxState.RUNNING, HostSandboxState.PAUSED)
        and seen.network_revision < row.network_revision
    )


def _agree(row: Sandbox, seen: HostSandbox | None) -> bool:
    """Whether nothing is under way with a sandbox, and its host has it as the row says."""
    if seen is None or seen.network_revision < row.network_revision:
        return False
    if _is_paused(row):
        return seen.state is HostSandboxState.PAUSED and seen.platform == row.platform
    is_running = _is_running(row) and row.status is State.RUNNING
    return (
        is_running
        and seen.state is HostSandboxState.RUNNING
        and (row.reason == seen.reason or bool(row.failure))
    )
