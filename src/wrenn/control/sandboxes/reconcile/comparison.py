"""Compares the database with what each host's agent reports, and corrects the differences.

The rows are read first, then the agent is asked, and a row is written only if it still has the version that was read: a
sandbox that begins to run in between is not taken for a lost one.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from wrenn.base.clock import Clock
from wrenn.base.errors import DeadlineExceeded, Unavailable, WrennError
from wrenn.base.ids import SandboxId
from wrenn.base.loops import Loop
from wrenn.control.db import Database, Hints
from wrenn.control.hosts import Host, HostClient, HostClients, HostSandbox, HostSandboxState, all_hosts
from wrenn.control.sandboxes.changes import ChangeNotifier
from wrenn.control.sandboxes.network_policy import SET_TIMEOUT_S, host_policy
from wrenn.control.sandboxes.reconcile import comparison_store
from wrenn.control.sandboxes.reconcile.reconciler import Reconciler
from wrenn.control.sandboxes.records import Sandbox
from wrenn.control.sandboxes.state import Desired, State

_log = logging.getLogger(__name__)

_LIST_TIMEOUT_S: Final = 10.0
_REMOVE_TIMEOUT_S: Final = 30.0
_NETWORKS_AT_ONCE: Final = 16
"""Policies that one host is told at once."""
_ACTIVITY_STEP_S: Final = 1.0
"""Times of last use nearer than this are taken as equal."""
LOST: Final = "The virtual machine is not on its host any more."
FILES_LOST: Final = "The files of the paused sandbox are not on its host any more."


@dataclass(frozen=True, slots=True)
class ComparisonSettings:
    """Intervals and grace periods of the comparison.

    Attributes:
        interval_s: between two looks.
        missing_after_s: sandboxes of a host that is silent for so long are `missing`.
        grace_s: for so long nothing is concluded from a sandbox without a row, or from a paused one that its host does not
            name.
    """

    interval_s: float
    missing_after_s: float
    grace_s: float


class Comparison:
    """Compares the database with what each host reports, and corrects what differs. Safe to run twice and on two replicas."""

    def __init__(
        self,
        *,
        database: Database,
        hints: Hints,
        clients: HostClients,
        changes: ChangeNotifier,
        reconciler: Reconciler,
        clock: Clock,
        settings: ComparisonSettings,
    ) -> None:
        self._database = database
        self._hints = hints
        self._clients = clients
        self._changes = changes
        self._reconciler = reconciler
        self._clock = clock
        self._settings = settings
        self.loop = Loop("compare with hosts")
        # Sandboxes without a row, and paused ones that their host does not name, each with the time when that was noticed.
        self._unknown: dict[SandboxId, float] = {}
        self._absent: dict[SandboxId, float] = {}

    async def run(self) -> None:
        """Compare all hosts at an interval, until cancelled."""
        await self.loop.run(self.compare_once, every_s=self._settings.interval_s)

    async def compare_once(self) -> None:
        """Compare all hosts now."""
        hosts = await all_hosts(self._database)
        await asyncio.gather(*(self._compare(host) for host in hosts))

    async def _compare(self, host: Host) -> None:
        rows = {
            row.sandbox_id: row for row in await comparison_store.live_on_host(self._database, host.host_id)
        }
        client = self._clients.at(host.endpoint)
        try:
            reported = await client.list_sandboxes(timeout_s=_LIST_TIMEOUT_S)
        except WrennError as error:
            if not isinstance(error, Unavailable | DeadlineExceeded):
                _log.warning(
                    "host did not list its sandboxes",
                    extra={"host_id": str(host.host_id), "cause": error.message},
                )
            if host.silent_s >= self._settings.missing_after_s:
                # A pause in progress is left to the reconciler, which ends it; a paused sandbox needs no host.
                for row in rows.values():
                    if row.status is State.RUNNING and row.desired is not Desired.PAUSED:
                        await self._set_state(row, State.MISSING)
            return
        seen = {sandbox.sandbox_id: sandbox for sandbox in reported}
        for row in rows.values():
            if row.desired is Desired.RUNNING and row.status in (State.RUNNING, State.MISSING):
                await self._correct(client, row, seen.get(row.sandbox_id))
            elif row.desired is Desired.PAUSED and row.status is State.PAUSED:
                await self._correct_paused(client, row, seen.get(row.sandbox_id))
        await self._remove_unwanted(client, seen, rows)
        # Last, and several at once, because each call may take long.
        at_once = asyncio.Semaphore(_NETWORKS_AT_ONCE)

        async def resend_network(row: Sandbox) -> None:
            async with at_once:
                await self._resend_network(client, row, seen.get(row.sandbox_id))

        await asyncio.gather(*map(resend_network, rows.values()))

    async def _correct(self, client: HostClient, row: Sandbox, seen: HostSandbox | None) -> None:
        """Correct the row of a sandbox that should be running."""
        if seen is not None and seen.state is HostSandboxState.RUNNING:
            if row.status is State.MISSING:
                await self._set_state(row, State.RUNNING)
            elif not row.failure and row.reason != seen.reason:
                await comparison_store.record_suspended(self._database, self._hints, row, seen.reason)
                self._changes.notify(row.sandbox_id)
            last = row.last_active_at.timestamp() if row.last_active_at else 0.0
            if seen.last_active_at_unix > last + _ACTIVITY_STEP_S:
                await comparison_store.record_active_at(self._database, row, seen.last_active_at_unix)
        elif seen is None or seen.state is HostSandboxState.LOST:
            await self._record_lost(client, row, seen, LOST)
        elif seen.state is HostSandboxState.PAUSED and await comparison_store.record_paused(
            self._database, self._hints, row, seen.reason
        ):
            _log.warning(
                "sandbox was paused on its host",
                extra={"sandbox_id": str(row.sandbox_id), "cause": seen.reason},
            )
            self._changes.notify(row.sandbox_id)

    async def _resend_network(self, client: HostClient, row: Sandbox, seen: HostSandbox | None) -> None:
        """Send the network policy to a host that has an older one, since it did not answer when the policy changed."""
        has_one = seen is not None and seen.state in (HostSandboxState.RUNNING, HostSandboxState.PAUSED)
        if seen is None or not has_one or seen.network_revision >= row.network_revision:
            return
        fields = {"sandbox_id": str(row.sandbox_id), "revision": row.network_revision}
        policy = host_policy(row.network, row.network_revision)
        try:
            await client.set_network(row.sandbox_id, policy, timeout_s=SET_TIMEOUT_S)
        except WrennError as error:
            _log.warning("network policy not put in force", extra={**fields, "cause": error.message})
        else:
            _log.warning("host had an older network policy", extra=fields)

    async def _correct_paused(self, client: HostClient, row: Sandbox, seen: HostSandbox | None) -> None:
        """Correct the row of a sandbox that should be paused."""
        if seen is None:
            # What it holds cannot be made anew: a host that has not read all its journals yet must not cost it.
            now = self._clock.monotonic()
            if now - self._absent.setdefault(row.sandbox_id, now) < self._settings.grace_s:
                return
        self._absent.pop(row.sandbox_id, None)
        if seen is None or seen.state is HostSandboxState.LOST:
            await self._record_lost(client, row, seen, FILES_LOST)
        elif seen.state is HostSandboxState.RUNNING and await comparison_store.record_running_unwanted(
            self._database, self._hints, row
        ):
            _log.warning("paused sandbox runs: paused again", extra={"sandbox_id": str(row.sandbox_id)})
            self._changes.notify(row.sandbox_id)
            self._reconciler.wake()

    async def _record_lost(
        self, client: HostClient, row: Sandbox, seen: HostSandbox | None, reason: str
    ) -> None:
        """Remove what its host still has of a lost sandbox, then record that it is lost."""
        if seen is not None:
            reason = seen.reason or reason
            if not await self._remove(client, row.sandbox_id):
                return
        if await comparison_store.record_lost(self._database, self._hints, row, reason):
            _log.warning("sandbox lost", extra={"sandbox_id": str(row.sandbox_id), "cause": reason})
            self._changes.notify(row.sandbox_id)

    async def _remove_unwanted(
        self, client: HostClient, seen: Mapping[SandboxId, HostSandbox], rows: Mapping[SandboxId, Sandbox]
    ) -> None:
        """Remove sandboxes from the host that have ended, and after a grace period those without a row."""
        unknown = [sandbox_id for sandbox_id in seen if sandbox_id not in rows]
        if not unknown:
            return
        ended = await comparison_store.ended_among(self._database, unknown)
        now = self._clock.monotonic()
        for sandbox_id in unknown:
            if sandbox_id in ended:
                self._unknown.pop(sandbox_id, None)
                unwanted = ended[sandbox_id]
            else:
                first_met = self._unknown.setdefault(sandbox_id, now)
                unwanted = now - first_met >= self._settings.grace_s
            if unwanted and await self._remove(client, sandbox_id):
                self._unknown.pop(sandbox_id, None)
                _log.warning("unwanted sandbox removed from host", extra={"sandbox_id": str(sandbox_id)})

    async def _remove(self, client: HostClient, sandbox_id: SandboxId) -> bool:
        try:
            await client.remove_sandbox(sandbox_id, timeout_s=_REMOVE_TIMEOUT_S)
        except WrennError as error:
            _log.warning("not removed", extra={"sandbox_id": str(sandbox_id), "cause": error.message})
            return False
        return True

    async def _set_state(self, row: Sandbox, state: State) -> None:
        if await comparison_store.record_state(self._database, self._hints, row, state):
            _log.warning("sandbox is %s", state, extra={"sandbox_id": str(row.sandbox_id)})
            self._changes.notify(row.sandbox_id)
