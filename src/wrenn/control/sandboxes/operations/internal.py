"""Sandboxes that the control plane itself uses for a team, such as those of builds. There is no credential to check."""

from __future__ import annotations

from wrenn.base.errors import NotFound
from wrenn.base.ids import BuildId, HostId, SandboxId, TeamId
from wrenn.control.audit import Actor
from wrenn.control.auth import Caller, Scope
from wrenn.control.db import Database, Hints, Transaction
from wrenn.control.hosts import Host, HostClient, HostClients
from wrenn.control.identity import Role, lock_active_team
from wrenn.control.placement import Wanted
from wrenn.control.sandboxes import desired_state_store, store
from wrenn.control.sandboxes.changes import ChangeNotifier
from wrenn.control.sandboxes.operations.capacity import Capacity, added_usage
from wrenn.control.sandboxes.operations.create import Creations
from wrenn.control.sandboxes.operations.invalid_state import raise_invalid_state
from wrenn.control.sandboxes.operations.waiting import WaitLimits, wait_ended, wait_paused
from wrenn.control.sandboxes.reconcile.reconciler import Reconciler
from wrenn.control.sandboxes.records import Sandbox
from wrenn.control.sandboxes.state import ENDED
from wrenn.control.sandboxes.types import CreateSandbox
from wrenn.control.templates import Template


class InternalSandboxes:
    """Creates, pauses and removes sandboxes on behalf of a team, and gives access to their host."""

    def __init__(
        self,
        *,
        database: Database,
        hints: Hints,
        changes: ChangeNotifier,
        reconciler: Reconciler,
        clients: HostClients,
        creations: Creations,
        capacity: Capacity,
        wait_limits: WaitLimits,
    ) -> None:
        self._database = database
        self._hints = hints
        self._changes = changes
        self._reconciler = reconciler
        self._clients = clients
        self._creations = creations
        self._capacity = capacity
        self._wait_limits = wait_limits

    async def choose_host(
        self, team_id: TeamId, *, vcpus: int, memory_mb: int, disk_size_mb: int
    ) -> tuple[HostId, HostClient]:
        """Choose a host for a sandbox of this size that is created there soon; nothing is reserved.

        Raises:
            NoCapacity, Unavailable. QuotaExceeded: the team may have no further sandbox.
        """
        wanted = Wanted("", vcpus, memory_mb, disk_size_mb, is_obtainable=True)

        async def choose(tx: Transaction) -> Host:
            available = await self._capacity.lock_and_read(tx, team_id)
            await lock_active_team(tx, team_id)
            available.team.require_within_quota(added_usage(vcpus, memory_mb, new=1))
            return await available.choose(wanted)

        host = await self._capacity.transaction_asking_hosts(choose)
        return host.host_id, self._clients.at(host.endpoint)

    async def create(
        self,
        team_id: TeamId,
        by: Actor,
        body: CreateSandbox,
        *,
        sandbox_id: SandboxId,
        template: Template,
        build_id: BuildId,
    ) -> Sandbox:
        """Create the sandbox of a build under this id and return it when it runs. Raises as `Creations.create`.

        `template`: what it is made from, which need not have a name.
        """
        caller = Caller(by, team_id, Role.MEMBER, Scope.FULL)
        return await self._creations.create(
            caller, body, None, sandbox_id=sandbox_id, template=template, build_id=build_id
        )

    async def of_builds(self) -> list[tuple[SandboxId, BuildId]]:
        """Return the sandboxes of builds that have not ended and are not being removed."""
        return await store.of_builds(self._database)

    async def get(self, sandbox_id: SandboxId) -> tuple[Sandbox, HostClient]:
        """Return the sandbox, in any state, and the client for its host. Raises NotFound."""
        found = await store.find_location(self._database, sandbox_id)
        if found is None:
            raise NotFound(f"There is no sandbox {sandbox_id}.")
        sandbox, host = found
        return sandbox, self._clients.at(host)

    async def pause(self, sandbox_id: SandboxId, by: Actor) -> Sandbox:
        """Pause the running sandbox and return it when it is paused. Raises as `Pauses.pause`."""
        with self._changes.watch(sandbox_id) as change:
            if not await desired_state_store.set_desired_paused(
                self._database, self._hints, sandbox_id, by=by
            ):
                sandbox, _ = await self.get(sandbox_id)
                await raise_invalid_state(self._database, sandbox, "only one that runs can be paused")
            self._reconciler.wake()
            return await wait_paused(change, self._wait_limits)

    async def begin_removal(self, sandbox_id: SandboxId, by: Actor, *, cause: str) -> None:
        """Have the sandbox removed, whatever its state; does not wait for it. Does nothing if there is none or it has ended."""
        await desired_state_store.set_desired_stopped(
            self._database, self._hints, [sandbox_id], by=by, cause=cause
        )
        self._reconciler.wake()

    async def remove(self, sandbox_id: SandboxId, by: Actor, *, cause: str) -> None:
        """Like `begin_removal`; returns when nothing of it is left.

        Raises:
            Unavailable: its host does not answer; it will be removed when the host is back.
        """
        with self._changes.watch(sandbox_id) as change:
            await self.begin_removal(sandbox_id, by, cause=cause)
            found = await store.find_location(self._database, sandbox_id)
            if found is not None and found[0].status not in ENDED:
                await wait_ended(change, sandbox_id)
