"""The steps for one leased sandbox: one call to its host, then the result.

Each step may run twice, because the calls to the host are idempotent. A result is written only by the replica that still holds the lease;
the host is called outside of any transaction.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Final

from wrenn.base.errors import (
    AgentFailure,
    DeadlineExceeded,
    InternalError,
    NoCapacity,
    Unavailable,
    WrennError,
)
from wrenn.base.faults import fault_point
from wrenn.base.ids import HostId, ImageId, SnapshotId
from wrenn.control.db import Database, Hints
from wrenn.control.hosts import HostClient, HostClients, HostNotConnected, HostSandbox, HostSandboxState
from wrenn.control.sandboxes.reconcile import work_store
from wrenn.control.sandboxes.reconcile.back_off import BackOff
from wrenn.control.sandboxes.reconcile.following import following
from wrenn.control.sandboxes.reconcile.host_call import host_spec, public_error
from wrenn.control.sandboxes.reconcile.move import MoveStep
from wrenn.control.sandboxes.records import Work
from wrenn.control.sandboxes.state import Desired, State
from wrenn.control.snapshots import NotStoredYet

_log = logging.getLogger(__name__)

ImageFor = Callable[[SnapshotId, HostId, float], Awaitable[ImageId | None]]
"""Returns from which image of the store a host gets a snapshot that was first asked for so many seconds ago; None: it has it.
Raises NotStoredYet, WrennError."""

PlaceAgain = Callable[[Work], Awaitable[bool]]
"""Places a leased sandbox on another host, and gives the lease up; False: there is no other host."""

_REMOVE_TIMEOUT_S: Final = 30.0
_FIRST_PAUSE_S: Final = 0.25
_LONGEST_PAUSE_S: Final = 10.0
_UPLOAD_PAUSES_S: Final = (0.25, 2.0)
"""Until it is looked again whether a snapshot is in the store: the longer, the longer a create has waited."""


@dataclass(frozen=True, slots=True)
class ReconcilerSettings:
    """Timeouts of the reconciler.

    Attributes:
        lease_s: how long a lease lasts after the replica that holds it has died; it is renewed three times within that time.
        start_timeout_s: the longest time for a start, pause or resume; it must allow for the first start of a template, which boots it.
        start_retry_s: how long such a call is repeated while the host does not respond.
        keep_stored: what the store has of a sandbox stays there when it is resumed.
    """

    lease_s: float
    start_timeout_s: float
    start_retry_s: float
    keep_stored: bool


class Steps:
    """Carries out the desired state of one leased sandbox: calls its host, then writes the result. `owner` names the replica's leases."""

    def __init__(
        self,
        *,
        database: Database,
        hints: Hints,
        clients: HostClients,
        owner: str,
        settings: ReconcilerSettings,
        back_off: BackOff,
        place_again: PlaceAgain,
        move: MoveStep,
        image_for: ImageFor,
    ) -> None:
        self._database = database
        self._hints = hints
        self._clients = clients
        self._owner = owner
        self._settings = settings
        self._back_off = back_off
        self._place_again = place_again
        self._move = move
        self._image_for = image_for

    async def do(self, work: Work) -> float | None:
        """Carry out the desired state. Returns the seconds until the next attempt if the host could not do it, else None."""
        match work.status, work.desired:
            case _, Desired.STOPPED:
                return await self._remove(work)
            case State.RUNNING, Desired.PAUSED:
                return await self._pause(work)
            case State.PAUSED, Desired.RUNNING:
                return await self._resume(work)
            case State.PAUSED, Desired.PAUSED:
                return await self._move.do(work)
            case State.STARTING, Desired.RUNNING:
                return await self._start(work)
            case _:
                raise AssertionError(f"nothing is to be done for {work.status}, {work.desired}")

    async def _start(self, work: Work) -> float | None:
        client = self._clients.at(work.host)
        now = asyncio.get_running_loop().time
        end = now() + self._settings.start_timeout_s - work.age_s
        try:
            image = await self._snapshot_image(work, end=end)
        except NotStoredYet:
            return await self._wait_for_upload(work)
        except WrennError as error:
            # That is no reason to try this host later than others.
            if isinstance(error, Unavailable) and work.age_s < self._settings.start_retry_s:
                return await self._postpone(work, error)
            await self._give_up(work, error)
            return None
        try:
            if now() >= end:
                raise DeadlineExceeded("The sandbox did not start in time.")
            async with self._following(client, work, "create"):
                seen = await client.ensure_sandbox(
                    host_spec(work, work.generation), snapshot_image=image, timeout_s=end - now()
                )
            await fault_point("control.create.after_rpc")
        except WrennError as error:
            if isinstance(error, HostNotConnected):
                self._back_off.refused(work.host.host_id)
                if await self._start_elsewhere(work, is_known=False):
                    return None
            if isinstance(error, Unavailable) and work.age_s < self._settings.start_retry_s:
                return await self._postpone(work, error)
            if isinstance(error, NoCapacity | AgentFailure | InternalError):
                self._back_off.refused(work.host.host_id)
            if not (isinstance(error, NoCapacity) and await self._start_elsewhere(work, is_known=True)):
                await self._give_up(work, error)
            return None
        self._back_off.started(work.host.host_id)
        was_written = await self._finish_running(work, seen)
        await fault_point("control.create.after_apply")
        _log.info(
            "sandbox running" if was_written else "sandbox not wanted any more",
            extra={"sandbox_id": str(work.sandbox_id), "attempts": work.attempts},
        )
        return None

    def _following(self, client: HostClient, work: Work, operation: str) -> AbstractAsyncContextManager[None]:
        # Long before the call fails, so that what is created meanwhile is placed elsewhere.
        return following(
            self._database,
            client,
            work,
            operation,
            owner=self._owner,
            silent=lambda: self._back_off.refused(work.host.host_id),
        )

    async def _snapshot_image(self, work: Work, *, end: float) -> ImageId | None:
        """Return the image from which the host gets the snapshot that the sandbox is made from, if it needs one.

        Raises:
            NotStoredYet: it is being uploaded. DeadlineExceeded: it is so still at the end. Else as `ImageFor`.
        """
        if work.origin.snapshot_id is None:
            return None
        try:
            return await self._image_for(work.origin.snapshot_id, work.host.host_id, work.age_s)
        except NotStoredYet:
            if asyncio.get_running_loop().time() < end:
                raise
            raise DeadlineExceeded(
                "The snapshot was not brought to another host in time. Its upload goes on: try again later."
            ) from None

    async def _wait_for_upload(self, work: Work) -> float:
        """Give the lease up until it is looked again. It is no attempt: the host was not called."""
        shortest_s, longest_s = _UPLOAD_PAUSES_S
        pause_s = min(max(shortest_s, work.age_s / 8), longest_s)
        await work_store.postpone(
            self._database,
            self._hints,
            work,
            owner=self._owner,
            pause_s=pause_s,
            attempts=work.attempts - 1,
        )
        return pause_s

    async def _start_elsewhere(self, work: Work, *, is_known: bool) -> bool:
        """Have a sandbox that its host did not take be placed on another one, if there is one and nothing of it can be left here.

        Only after the first call for it to this host, whose result this is: of an earlier one whose answer was lost it is not known
        what the host makes of it. `is_known`: the host has received the call.
        """
        is_first = work.attempts == 1 and work.age_s < self._settings.start_retry_s
        if not is_first or work.origin.snapshot_id is not None:
            return False
        if is_known:
            try:
                if not await self._take_back(work):
                    return False
            except WrennError:
                return False
        is_placed = await self._place_again(work)
        if is_placed:
            _log.info("sandbox is placed on another host", extra={"sandbox_id": str(work.sandbox_id)})
        return is_placed

    async def _give_up(self, work: Work, error: WrennError) -> None:
        """Remove what the host may have started, then record the error."""
        try:
            if not await self._take_back(work):
                _log.info("another replica starts the sandbox", extra={"sandbox_id": str(work.sandbox_id)})
                return
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
        public = public_error(error, "start")
        await work_store.finish_error(self._database, self._hints, work, public, owner=self._owner)

    async def _take_back(self, work: Work) -> bool:
        """Remove what the host may have started; False: nothing was removed, because the lease is lost.

        Another replica that took the sandbox over when the lease ran out may have started it by the same call.

        Raises:
            DatabaseUnavailable: whether the lease is lost is not known; nothing was removed.
            WrennError: what the host said, or that it did not answer.
        """
        if not await work_store.renew_lease(
            self._database, work, owner=self._owner, lease_s=self._settings.lease_s
        ):
            return False
        await self._clients.at(work.host).remove_sandbox(
            work.sandbox_id,
            generation=work.generation,
            timeout_s=min(_REMOVE_TIMEOUT_S, self._settings.lease_s),
        )
        return True

    async def _remove(self, work: Work) -> float | None:
        client = self._clients.at(work.host)
        try:
            # Of whatever generation: a removal is never taken back.
            await client.remove_sandbox(work.sandbox_id, generation=0, timeout_s=_REMOVE_TIMEOUT_S)
            await fault_point("control.delete.after_rpc")
        except WrennError as error:
            return await self._postpone(work, error)
        if work.move_to is not None:
            await self._move.remove_at_target(work)
        await work_store.finish_stopped(self._database, self._hints, work, owner=self._owner)
        await fault_point("control.delete.after_apply")
        _log.info("sandbox stopped", extra={"sandbox_id": str(work.sandbox_id)})
        return None

    async def _pause(self, work: Work) -> float | None:
        client = self._clients.at(work.host)
        try:
            async with self._following(client, work, "pause"):
                seen = await client.pause_sandbox(
                    work.sandbox_id,
                    generation=work.generation,
                    idle_ms=work.idle_ms,
                    keep_memory=work.keeps_memory,
                    timeout_s=self._settings.start_timeout_s,
                )
            in_use = work.idle_ms > 0 and seen.state is HostSandboxState.RUNNING
            if seen.state is not HostSandboxState.PAUSED and not in_use:
                raise AgentFailure("The host did not pause the sandbox.", context={"state": seen.state})
            await fault_point("control.pause.after_rpc")
        except WrennError as error:
            return await self._handle_failed_change(work, error, "pause")
        if in_use:
            await work_store.finish_in_use(
                self._database,
                self._hints,
                work,
                active_at_unix=seen.last_active_at_unix,
                owner=self._owner,
            )
            return None
        await work_store.finish_paused(self._database, self._hints, work, seen, owner=self._owner)
        await fault_point("control.pause.after_apply")
        _log.info("sandbox paused", extra={"sandbox_id": str(work.sandbox_id), "idle_ms": work.idle_ms})
        return None

    async def _resume(self, work: Work) -> float | None:
        client = self._clients.at(work.host)
        try:
            async with self._following(client, work, "resume"):
                seen = await client.resume_sandbox(
                    work.sandbox_id,
                    generation=work.generation,
                    keep_memory=work.keeps_memory,
                    timeout_s=self._settings.start_timeout_s,
                )
            await fault_point("control.resume.after_rpc")
        except WrennError as error:
            return await self._handle_failed_change(work, error, "resume")
        await self._finish_running(work, seen)
        await fault_point("control.resume.after_apply")
        _log.info("sandbox resumed", extra={"sandbox_id": str(work.sandbox_id)})
        return None

    async def _finish_running(self, work: Work, seen: HostSandbox) -> bool:
        return await work_store.finish_running(
            self._database,
            self._hints,
            work,
            seen,
            owner=self._owner,
            keep_stored=self._settings.keep_stored,
        )

    async def _handle_failed_change(self, work: Work, error: WrennError, verb: str) -> float | None:
        """Retry while the host does not answer, for a limited time; otherwise restore the former desired state.

        The host may have made the change although its response was lost; then the comparison with the host corrects the row. An idle
        pause is not retried, because the expiry loop requests it again.
        """
        silent = isinstance(error, Unavailable | DeadlineExceeded)
        if silent and work.age_s < self._settings.start_retry_s and not work.idle_ms:
            return await self._postpone(work, error)
        _log.warning(
            "sandbox was not %sd",
            verb,
            extra={"sandbox_id": str(work.sandbox_id), "cause": error.message, **error.context},
        )
        # The guest takes part in a pause without memory. It must not decide whether its idle time or lifetime ends.
        without_memory = work.status is State.RUNNING and not work.keeps_memory
        if without_memory and await work_store.pause_with_memory(
            self._database, self._hints, work, owner=self._owner
        ):
            return 0.0
        public = public_error(error, verb)
        await work_store.finish_refused(self._database, self._hints, work, public, owner=self._owner)
        return None

    async def _postpone(self, work: Work, error: WrennError) -> float:
        pause_s = min(_LONGEST_PAUSE_S, _FIRST_PAUSE_S * 2 ** min(work.attempts - 1, 10))
        _log.warning(
            "host did not do it, will be tried again",
            extra={"sandbox_id": str(work.sandbox_id), "cause": error.message, "pause_s": pause_s},
        )
        await work_store.postpone(self._database, self._hints, work, owner=self._owner, pause_s=pause_s)
        return pause_s
