"""Moves a paused sandbox to another host (docs/design/moves.md): upload, adoption, change of the row, removal at the former host.

Until the row names the target, the sandbox is where it was, and every failure leaves it there. All steps may be repeated, by another
replica too: each attempt gives the target a higher generation, which replaces what a former one left there.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Final

from wrenn.base.errors import Conflict, DeadlineExceeded, WrennError
from wrenn.base.faults import fault_point
from wrenn.base.ids import ImageId
from wrenn.control.db import Database, Hints, Transaction
from wrenn.control.hosts import TRANSFER_WAIT_S, HostClients, HostTransfer, finish_transfer
from wrenn.control.images import ImageKind, Images
from wrenn.control.sandboxes.reconcile import work_store
from wrenn.control.sandboxes.reconcile.host_call import host_spec, public_error
from wrenn.control.sandboxes.records import Work

_log = logging.getLogger(__name__)

CommitMove = Callable[[Work, int], Awaitable[bool]]
"""Writes that the target has the sandbox, with this generation, if it has room; False: the lease is lost. Raises WrennError if it has none."""

_LIMIT_S: Final = 3600.0
_REMOVE_TIMEOUT_S: Final = 30.0


class LeaseLost(Exception):
    """Another replica works on the sandbox, or it is to be removed."""


class MoveStep:
    """Moves sandboxes. `owner` names this replica's leases, which last `lease_s`; a host may be silent for `retry_s`."""

    def __init__(
        self,
        *,
        database: Database,
        hints: Hints,
        clients: HostClients,
        images: Images,
        commit: CommitMove,
        owner: str,
        lease_s: float,
        retry_s: float,
    ) -> None:
        self._database = database
        self._hints = hints
        self._clients = clients
        self._images = images
        self._commit = commit
        self._owner = owner
        self._lease_s = lease_s
        self._retry_s = retry_s

    async def do(self, work: Work) -> None:
        """Move a leased sandbox, or record why it was not moved."""
        assert work.move_to is not None, "it is being moved"
        fields = {"sandbox_id": str(work.sandbox_id), "host_id": str(work.move_to.host_id)}
        generation = 0
        try:
            if work.move_to.host_id == work.host.host_id:
                # Adoption would have the host remove its copy, which is the only one.
                raise Conflict("The sandbox is on the host that it was to be moved to.")
            async with asyncio.timeout(_LIMIT_S):
                image_id, generation = await self._store(work)
                await self._adopt(work, image_id, generation)
                await fault_point("control.move.after_adopt")
                if not await self._commit(work, generation):
                    raise LeaseLost
            await fault_point("control.move.after_commit")
        except LeaseLost:
            # What the target may have is removed by the comparison, or replaced by the next attempt.
            _log.info("move of a sandbox ended: it is not this replica's any more", extra=fields)
            return
        except (WrennError, TimeoutError) as error:
            failure = (
                error
                if isinstance(error, WrennError)
                else DeadlineExceeded("The sandbox was not moved in time.")
            )
            _log.warning(
                "sandbox was not moved", extra={**fields, "cause": failure.message, **failure.context}
            )
            public = public_error(failure, "move")
            if (
                await work_store.finish_not_moved(
                    self._database, self._hints, work, public, owner=self._owner
                )
                and generation
            ):
                await self._remove(work, at_target=True, generation=generation)
            return
        await self._remove(work, at_target=False, generation=work.generation)
        _log.info("sandbox moved", extra=fields)

    async def remove_at_target(self, work: Work) -> None:
        """Remove what the target of a move has of a sandbox that is to be removed. A failure is logged: the comparison does it then."""
        await self._remove(work, at_target=True, generation=0)

    async def _store(self, work: Work) -> tuple[ImageId, int]:
        """Have its host upload the sandbox. Returns the image that it is in the store, and a generation for the target."""
        image_id = await self._images.begin_alone(
            work.team_id, work.host.host_id, ImageKind.SANDBOX, retry_s=self._retry_s
        )
        await fault_point("control.move.after_begin")
        with self._images.renewing_lease(image_id):
            try:
                source = self._clients.at(work.host)
                await self._finish(
                    work,
                    lambda: source.store_sandbox(
                        work.sandbox_id, image_id, generation=work.generation, wait_s=TRANSFER_WAIT_S
                    ),
                )
                await fault_point("control.move.after_upload")

                async def publish(tx: Transaction) -> int:
                    await self._images.publish(tx, image_id)
                    found = await work_store.set_stored(tx, work, image_id, owner=self._owner)
                    if found is None:
                        raise LeaseLost
                    return found

                generation = await self._database.transaction(publish)
            except BaseException:
                await asyncio.shield(self._images.give_up(image_id))
                raise
        await fault_point("control.move.after_publish")
        return image_id, generation

    async def _adopt(self, work: Work, image_id: ImageId, generation: int) -> None:
        assert work.move_to is not None, "it is being moved"
        target, spec = self._clients.at(work.move_to), host_spec(work, generation)
        await self._finish(work, lambda: target.adopt_sandbox(spec, image_id, wait_s=TRANSFER_WAIT_S))

    async def _finish(self, work: Work, call: Callable[[], Awaitable[HostTransfer]]) -> None:
        """Call until the transfer is done.

        Raises:
            LeaseLost: the sandbox is to be removed, or another replica moves it. Else as `finish_transfer`.
        """

        async def renew() -> None:
            if not await work_store.renew_lease(
                self._database, work, owner=self._owner, lease_s=self._lease_s
            ):
                raise LeaseLost

        await finish_transfer(call, before_call=renew, retry_s=self._retry_s)

    async def _remove(self, work: Work, *, at_target: bool, generation: int) -> None:
        """Remove the copy at the target or the former host. Where that fails the comparison does it: its generation is outdated."""
        host = work.move_to if at_target else work.host
        assert host is not None, "it is being moved"
        try:
            await self._clients.at(host).remove_sandbox(
                work.sandbox_id, generation=generation, timeout_s=_REMOVE_TIMEOUT_S
            )
        except WrennError as error:
            _log.warning(
                "copy of a moved sandbox not removed yet",
                extra={"sandbox_id": str(work.sandbox_id), "cause": error.message},
            )
