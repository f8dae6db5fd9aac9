"""Uploads what pauses saved to the store, in the background, so that a sandbox outlives its host (docs/design/moves.md).

One replica at a time uploads a sandbox, under a lease of its own: a resume, a move and a removal do not wait for it, and end it on the host.
"""

from __future__ import annotations

import asyncio
import enum
import logging
from typing import Final

from wrenn.base.clock import Clock
from wrenn.base.errors import WrennError
from wrenn.base.ids import ImageId, SandboxId
from wrenn.base.loops import Loop
from wrenn.base.tasks import OwnedTasks
from wrenn.control.db import Database, HeldLeases, Transaction
from wrenn.control.hosts import UploadSlots
from wrenn.control.quotas import Limits
from wrenn.control.sandboxes.reconcile import upload_store
from wrenn.control.sandboxes.reconcile.store_state import StoreState
from wrenn.control.sandboxes.reconcile.upload_store import PausedState
from wrenn.control.templates import require_any_space, require_space

_log = logging.getLogger(__name__)

_LIMIT_S: Final = 3600.0


class PauseUploads(enum.StrEnum):
    """When the states of paused sandboxes are uploaded to the store."""

    NEVER = "never"
    """Only when a sandbox is moved."""
    ON_DRAIN = "on-drain"
    """When its host is being drained."""
    ALWAYS = "always"
    """After every pause; what is stored stays there when the sandbox is resumed."""


class NotWanted(Exception):
    """The sandbox was resumed, removed or moved meanwhile."""


class PauseUploading:
    """Uploads paused sandboxes where `uploads` says so. `limits`: of a team that has none of its own."""

    def __init__(
        self,
        *,
        database: Database,
        store_state: StoreState,
        clock: Clock,
        owner: str,
        lease_s: float,
        uploads: PauseUploads,
        limits: Limits,
        interval_s: float,
    ) -> None:
        self._database = database
        self._store_state = store_state
        self._uploads = uploads
        self._limits = limits
        self._interval_s = interval_s
        self.leases = HeldLeases(database, upload_store.LEASES, owner=owner, lease_s=lease_s)
        self._slots: UploadSlots[SandboxId] = UploadSlots(clock)
        self._tasks = OwnedTasks()
        self.loop = Loop("upload paused sandboxes")

    async def run(self) -> None:
        """Look at an interval for what is not stored, until cancelled."""
        try:
            await self.loop.run(self.begin_once, every_s=self._interval_s)
        finally:
            await self._tasks.close()

    async def begin_once(self) -> None:
        """Begin to upload what is not stored, as much as may be uploaded at once."""
        if not self._slots.free:
            return
        found = await upload_store.due(
            self._database,
            limit=self._slots.free,
            only_drained=self._uploads is PauseUploads.ON_DRAIN,
            busy_hosts=self._slots.busy_hosts(),
            busy_teams=self._slots.busy_teams(),
            except_for=self._slots.not_now(),
        )
        for state in found:
            if self._slots.take(state.sandbox_id, state.host.host_id, state.team_id):
                self._tasks.start(f"upload {state.sandbox_id}", self._upload(state))

    async def _upload(self, state: PausedState) -> None:
        sandbox_id, owner = state.sandbox_id, self.leases.owner
        fields = {"sandbox_id": str(sandbox_id)}
        try:
            if not await upload_store.lease(
                self._database, sandbox_id, owner=owner, lease_s=self.leases.lease_s
            ):
                return
            try:
                with self.leases.renewed(sandbox_id.value):
                    async with asyncio.timeout(_LIMIT_S):
                        await self._store(state)
            finally:
                await asyncio.shield(upload_store.release(self._database, sandbox_id, owner=owner))
            _log.info("paused sandbox stored", extra=fields)
        except NotWanted:
            _log.debug("paused sandbox not stored: it is not paused any more", extra=fields)
        except (WrennError, TimeoutError) as error:
            self._slots.note_failure(sandbox_id)
            _log.warning("paused sandbox not stored yet", extra={**fields, "cause": str(error)})
        finally:
            self._slots.release(sandbox_id)
            self.loop.wake()

    async def _store(self, state: PausedState) -> None:
        async def require_due() -> None:
            if not await upload_store.is_due(self._database, state):
                raise NotWanted

        async def note(tx: Transaction, image_id: ImageId, size_b: int) -> None:
            await require_space(tx, state.team_id, size_b, self._limits)
            if not await upload_store.set_stored(tx, state, image_id):
                raise NotWanted

        await self._database.transaction(lambda tx: require_any_space(tx, state.team_id, self._limits))
        await self._store_state.run(
            state.sandbox_id,
            state.team_id,
            state.host,
            state.generation,
            before_call=require_due,
            publish=note,
        )
