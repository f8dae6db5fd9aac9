"""Does what is due: leases a sandbox, brings it up or takes it down on its host, writes the result.

A step may be done twice, by one replica or by two: the host's `Ensure` and `Remove` say what should be, and a result is
written only by who still holds the lease. The host is called outside any transaction.
"""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass
from typing import Final

from wrenn.base.errors import DeadlineExceeded, InternalError, Unavailable, WrennError
from wrenn.base.faults import fault_point
from wrenn.base.tasks import OwnedTasks
from wrenn.control.db import Database, Hints
from wrenn.control.hosts import HostClients
from wrenn.control.sandboxes import work_store
from wrenn.control.sandboxes.changes import Changes
from wrenn.control.sandboxes.records import Work
from wrenn.control.sandboxes.state import Desired
from wrenn.protocol.host import host_pb as pb

_log = logging.getLogger(__name__)

_AT_ONCE: Final = 64
"""Calls to hosts that one replica has open for creates and deletes. The hosts queue what they cannot do at once."""
_TIMER_S: Final = 2.0
_REMOVE_TIMEOUT_S: Final = 30.0
_FIRST_PAUSE_S: Final = 0.25
_LONGEST_PAUSE_S: Final = 10.0


@dataclass(frozen=True, slots=True)
class ReconcilerSettings:
    """Limits of the loop.

    Attributes:
        lease_s: how long a replica's claim outlives the replica; renewed three times within it.
        start_timeout_s: longest for a sandbox to run; the first one of a template boots it.
        start_retry_s: how long a host that does not answer is asked again to start one.
    """

    lease_s: float
    start_timeout_s: float
    start_retry_s: float


class Reconciler:
    """One replica's worker. `owner` names the replica's leases."""

    def __init__(
        self,
        *,
        database: Database,
        hints: Hints,
        clients: HostClients,
        changes: Changes,
        owner: str,
        settings: ReconcilerSettings,
    ) -> None:
        self._database = database
        self._hints = hints
        self._clients = clients
        self._changes = changes
        self._owner = owner
        self._settings = settings
        self._due = asyncio.Event()
        self._held: dict[asyncio.Task[object], Work] = {}
        self._tasks = OwnedTasks()

    def wake(self) -> None:
        """Something may be due."""
        self._due.set()

    async def run(self) -> None:
        """Work until cancelled; then leave what is under way to the leases' end."""
        self._tasks.start("renew leases", self._renew_leases())
        try:
            while True:
                self._due.clear()
                try:
                    await self.reconcile_once()
                except Exception:  # noqa: BLE001 - the loop must go on; what failed is tried again
                    _log.exception("due work could not be taken")
                    await asyncio.sleep(_FIRST_PAUSE_S)
                try:
                    async with asyncio.timeout(_TIMER_S):
                        await self._due.wait()
                except TimeoutError:
                    pass
        finally:
            await self._tasks.close()

    async def reconcile_once(self) -> None:
        """Lease what is due and begin to work on it."""
        while (room := _AT_ONCE - len(self._held)) > 0:
            taken = await work_store.take_due(
                self._database, owner=self._owner, lease_s=self._settings.lease_s, limit=room
            )
            for work in taken:
                task = self._tasks.start(f"work on {work.sandbox_id}", self._work_on(work))
                self._held[task] = work
                task.add_done_callback(self._released)
            if len(taken) < room:
                return

    def _released(self, task: asyncio.Task[object]) -> None:
        del self._held[task]
        self._due.set()

    async def _renew_leases(self) -> None:
        while True:
            await asyncio.sleep(self._settings.lease_s / 3)
            if held := [work.sandbox_id for work in self._held.values()]:
                try:
                    await work_store.renew(
                        self._database, held, owner=self._owner, lease_s=self._settings.lease_s
                    )
                except Exception:  # noqa: BLE001 - another replica may take them over then, which is safe
                    _log.exception("leases could not be renewed")

    async def _work_on(self, work: Work) -> None:
        act = self._start if work.desired is Desired.RUNNING else self._remove
        try:
            await act(work)
        finally:
            self._changes.tell(work.sandbox_id)

    async def _start(self, work: Work) -> None:
        client = self._clients.at(work.host_address)
        left_s = self._settings.start_timeout_s - work.age_s
        try:
            if left_s <= 0:
                raise DeadlineExceeded("The sandbox did not start in time.")
            seen = await client.call(
                client.rpc.ensure_sandbox, pb.EnsureSandboxRequest(sandbox=_spec(work)), timeout_s=left_s
            )
            await fault_point("control.create.after_rpc")
        except WrennError as error:
            if isinstance(error, Unavailable) and work.age_s < self._settings.start_retry_s:
                await self._postpone(work, error)
            else:
                await self._give_up(work, error)
            return
        kept = await work_store.finish_running(self._database, self._hints, work, seen, owner=self._owner)
        await fault_point("control.create.after_apply")
        _log.info(
            "sandbox running" if kept else "sandbox not wanted any more",
            extra={"sandbox_id": str(work.sandbox_id), "attempts": work.attempts},
        )

    async def _give_up(self, work: Work, error: WrennError) -> None:
        """Take back what the host may have begun, then write the error."""
        client = self._clients.at(work.host_address)
        try:
            await client.call(
                client.rpc.remove_sandbox,
                pb.RemoveSandboxRequest(sandbox_id=str(work.sandbox_id)),
                timeout_s=_REMOVE_TIMEOUT_S,
            )
        except WrennError as left:
            # The comparison with the host removes it when the host answers again.
            _log.warning(
                "failed sandbox not removed yet",
                extra={"sandbox_id": str(work.sandbox_id), "cause": left.message},
            )
        _log.warning(
            "sandbox did not start",
            extra={"sandbox_id": str(work.sandbox_id), "cause": error.message, **error.context},
        )
        if isinstance(error, InternalError):
            error = InternalError("The host could not start the sandbox; its log has the reason.")
        await work_store.finish_error(self._database, self._hints, work, error, owner=self._owner)

    async def _remove(self, work: Work) -> None:
        client = self._clients.at(work.host_address)
        try:
            await client.call(
                client.rpc.remove_sandbox,
                pb.RemoveSandboxRequest(sandbox_id=str(work.sandbox_id)),
                timeout_s=_REMOVE_TIMEOUT_S,
            )
            await fault_point("control.delete.after_rpc")
        except WrennError as error:
            await self._postpone(work, error)
            return
        await work_store.finish_stopped(self._database, self._hints, work, owner=self._owner)
        await fault_point("control.delete.after_apply")
        _log.info("sandbox stopped", extra={"sandbox_id": str(work.sandbox_id)})

    async def _postpone(self, work: Work, error: WrennError) -> None:
        pause_s = min(_LONGEST_PAUSE_S, _FIRST_PAUSE_S * 2 ** min(work.attempts - 1, 10))
        _log.warning(
            "host did not do it, tried again later",
            extra={"sandbox_id": str(work.sandbox_id), "cause": error.message, "pause_s": pause_s},
        )
        await work_store.postpone(self._database, self._hints, work, owner=self._owner, pause_s=pause_s)
        self._tasks.start("wake for a retry", self._wake_after(pause_s))

    async def _wake_after(self, pause_s: float) -> None:
        await asyncio.sleep(pause_s)
        self.wake()


def _spec(work: Work) -> pb.SandboxSpec:
    return pb.SandboxSpec(
        sandbox_id=str(work.sandbox_id),
        team_id=str(work.team_id),
        template=work.spec.template,
        vcpus=work.spec.vcpus,
        memory_mb=work.spec.memory_mb,
        disk_size_mb=work.disk_size_mb,
        envs=dict(work.spec.envs),
    )
