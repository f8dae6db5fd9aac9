"""Moves a paused sandbox to another host (docs/design/moves.md): upload, adoption, change of the row, removal at the former host.

Until the row names the target, the sandbox is where it was, and every failure leaves it there. All steps may be repeated, by another
replica too: each attempt gives the target a higher generation, which replaces what a former one left there. In a recovery
nothing is uploaded, and the former host, which is lost, is not asked; it removes its copy when it is back.
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
from wrenn.control.hosts import TRANSFER_WAIT_S, HostClients, finish_transfer
from wrenn.control.sandboxes.reconcile import work_store
from wrenn.control.sandboxes.reconcile.host_call import host_spec, public_error
from wrenn.control.sandboxes.reconcile.store_state import StoreState
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
        store_state: StoreState,
        commit: CommitMove,
        owner: str,
        lease_s: float,
        retry_s: float,
    ) -> None:
        self._database = database
        self._hints = hints
        self._clients = clients
        self._store_state = store_state
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
        if work.recover_from is None:
            await self._remove(work, at_target=False, generation=work.generation)
        _log.info("sandbox moved", extra=fields)

    async def remove_at_target(self, work: Work) -> None:
        """Remove what the target of a move has of a sandbox that is to be removed. A failure is logged: the comparison does it then."""
        await self._remove(work, at_target=True, generation=0)

    async def _store(self, work: Work) -> tuple[ImageId, int]:
        """Have its host upload the sandbox. Returns the image that it is in the store, and a generation for the target.

        In a recovery the store has it already.
        """

        async def note(tx: Transaction, image_id: ImageId) -> tuple[ImageId, int]:
            generation = await work_store.set_stored(tx, work, image_id, owner=self._owner)
            if generation is None:
                raise LeaseLost
            return image_id, generation

        recover_from = work.recover_from
        if recover_from is not None:
            return await self._database.transaction(lambda tx: note(tx, recover_from))
        return await self._store_state.run(
            work.sandbox_id,
            work.team_id,
            work.host,
            work.generation,
            before_call=lambda: self._renew_lease(work),
            # A move is never refused because the team's storage is used up: its host may have to be emptied.
            publish=lambda tx, image_id, _size_b: note(tx, image_id),
        )

    async def _adopt(self, work: Work, image_id: ImageId, generation: int) -> None:
        assert work.move_to is not None, "it is being moved"
        target, spec = self._clients.at(work.move_to), host_spec(work, generation)
        await finish_transfer(
            lambda: target.adopt_sandbox(spec, image_id, wait_s=TRANSFER_WAIT_S),
            before_call=lambda: self._renew_lease(work),
            retry_s=self._retry_s,
        )

    async def _renew_lease(self, work: Work) -> None:
        """Renew the lease.

        Raises:
            LeaseLost: the sandbox is to be removed, or another replica moves it.
        """
        if not await work_store.renew_lease(self._database, work, owner=self._owner, lease_s=self._lease_s):
            raise LeaseLost

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
