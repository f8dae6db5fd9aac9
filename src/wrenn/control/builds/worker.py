"""Takes builds from the queue and runs them, a few at a time. Every replica has one."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Final

from wrenn.base.errors import (
    Conflict,
    Forbidden,
    InternalError,
    InvalidRequest,
    InvalidState,
    NotFound,
    Unauthorized,
    Unavailable,
    WrennError,
)
from wrenn.base.faults import fault_point
from wrenn.base.ids import BuildId
from wrenn.base.loops import Loop
from wrenn.base.tasks import OwnedTasks
from wrenn.control.audit import SYSTEM
from wrenn.control.builds import store
from wrenn.control.builds.log_writer import LogWriter
from wrenn.control.builds.records import Build, BuildStatus, access_lost
from wrenn.control.builds.runner import LIFETIME_S, BuildRunner
from wrenn.control.builds.steps import StepFailed
from wrenn.control.db import Database, HeldLeases

_log = logging.getLogger(__name__)

_POLL_S: Final = 5.0
"""Or the time of a lease, if that is shorter. The replica that takes a request for a build, and one where a build has ended, look at once."""
_WATCH_S: Final = 1.0
_ATTEMPTS: Final = 3
_AT_ONCE: Final = 32
"""Builds that this replica runs at once. They wait for their hosts nearly all the time."""
_RESERVED: Final = 8
"""Of those, for owners of whom no build runs."""
_OF_OWNER: Final = 4
"""Builds of all teams of one owner that run at once, on all replicas."""
_FINAL: Final = (InvalidRequest, NotFound, Conflict, Unauthorized, Forbidden)
_OF_TEAM: Final = 2
"""Builds of a team that run at once, on all replicas."""


class BuildWorker:
    """Runs the builds of the queue until cancelled; one that it leaves is taken over when its lease has run out."""

    def __init__(
        self,
        *,
        database: Database,
        runner: BuildRunner,
        wake_cleanup: Callable[[], None],
        lease_s: float,
    ) -> None:
        self._database = database
        self._runner = runner
        self._wake_cleanup = wake_cleanup
        self._poll_s = min(_POLL_S, lease_s)
        self.leases = HeldLeases(database, store.LEASES, owner=runner.owner, lease_s=lease_s)
        self.loop = Loop("run builds")
        self._tasks = OwnedTasks()
        self._running: set[BuildId] = set()

    async def run(self) -> None:
        """Look for builds at an interval, until cancelled."""
        try:
            await self.loop.run(self._round, every_s=self._poll_s)
        finally:
            await self._tasks.close()

    async def _round(self) -> None:
        if await store.is_anything_due(self._database):
            await self._take()

    async def _take(self) -> None:
        free = _AT_ONCE - len(self._running)
        if free <= 0:
            return
        taken = await store.take(
            self._database,
            owner=self.leases.owner,
            lease_s=self.leases.lease_s,
            most=free,
            reserved=min(_RESERVED, free),
            most_of_team=_OF_TEAM,
            most_of_owner=_OF_OWNER,
            running_here=self._running,
        )
        for build in taken:
            self._running.add(build.build_id)
            self._tasks.start("run build", self._run(build))

    async def _run(self, build: Build) -> None:
        try:
            with self.leases.renewed(build.build_id.value):
                await fault_point("control.build.after_lease")
                await self._run_leased(build)
        except WrennError as error:
            _log.warning(
                "build left to another attempt",
                extra={"build_id": str(build.build_id), "cause": error.message},
            )
            # The next attempt begins when the lease has run out, which gives a host time to answer again; or at once
            # when only the sandbox is lost.
            if isinstance(error, InvalidState):
                await store.release(self._database, build, owner=self.leases.owner)
        finally:
            self._running.discard(build.build_id)
            self.loop.wake()
            self._wake_cleanup()

    async def _run_leased(self, build: Build) -> None:
        if build.attempts > _ATTEMPTS:
            gave_up = InternalError(f"The build was tried {_ATTEMPTS} times.")
            await self._finish(build, BuildStatus.FAILED, gave_up)
            return
        watched = await store.watch(self._database, build, owner=self.leases.owner)
        if watched is None:
            return
        if not watched.is_allowed:
            await self._finish(build, BuildStatus.CANCELLED, access_lost())
            return
        log = LogWriter(self._database, build.build_id, build.attempts)
        writing = asyncio.create_task(log.run())
        running = asyncio.create_task(self._bounded(build, log))
        try:
            status, error = await self._ended(build, running)
        finally:
            for task in (running, writing):
                task.cancel()
            await asyncio.wait({running, writing})
            await log.flush()
        if status is None:
            return
        await self._finish(build, status, error)

    async def _bounded(self, build: Build, log: LogWriter) -> None:
        try:
            async with asyncio.timeout(LIFETIME_S):
                await self._runner.run(build, log)
        except TimeoutError as error:
            raise StepFailed(f"The build took longer than {LIFETIME_S / 3600:g} h.") from error

    async def _finish(self, build: Build, status: BuildStatus, error: WrennError | None) -> None:
        code, message = ("", "") if error is None else (error.code, _public(error))
        await self._database.transaction(
            lambda tx: store.finish(
                tx,
                build,
                status,
                owner=self.leases.owner,
                by=SYSTEM,
                error_code=code,
                error=message,
            )
        )

    async def _ended(
        self, build: Build, running: asyncio.Task[None]
    ) -> tuple[BuildStatus | None, WrennError | None]:
        """Wait for the end of the build; returns its status and error. None: it is recorded already, or not this worker's any more."""
        while not running.done():
            await asyncio.wait({running}, timeout=_WATCH_S)
            try:
                watched = await store.watch(self._database, build, owner=self.leases.owner)
            except Unavailable:
                # Whatever the build writes is guarded by its lease.
                continue
            if watched is None:
                if not running.done():
                    return None, None
            elif not running.done() or running.exception() is not None:
                if watched.is_cancel_requested:
                    return BuildStatus.CANCELLED, None
                if not watched.is_allowed:
                    return BuildStatus.CANCELLED, access_lost()
        try:
            running.result()
        except WrennError as error:
            if build.attempts < _ATTEMPTS and not _is_final(error):
                raise
            return BuildStatus.FAILED, error
        # Recorded with its template.
        return None, None


def _is_final(error: WrennError) -> bool:
    """Whether another attempt would meet the error again."""
    # The sandbox was paused or removed, as by the drain of its host; the next attempt has another one.
    return isinstance(error, _FINAL) and not isinstance(error, InvalidState)


def _public(error: WrennError) -> str:
    if isinstance(error, InternalError):
        return "The platform or a host failed; their logs have the reason."
    return error.message
