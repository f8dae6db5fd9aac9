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
from wrenn.control.quotas import Limits
from wrenn.control.sandboxes.reconcile import upload_store
from wrenn.control.sandboxes.reconcile.store_state import StoreState
from wrenn.control.sandboxes.reconcile.upload_store import PausedState
from wrenn.control.templates import require_any_space, require_space

_log = logging.getLogger(__name__)

_LIMIT_S: Final = 3600.0
_AT_ONCE: Final = 4
"""Uploads that one replica has under way, as many as a host carries out at once."""
_AFTER_FAILURE_S: Final = 60.0


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
        self._clock = clock
        self._uploads = uploads
        self._limits = limits
        self._interval_s = interval_s
        self.leases = HeldLeases(database, upload_store.LEASES, owner=owner, lease_s=lease_s)
        self._failed_at: dict[SandboxId, float] = {}
        self._uploading: set[SandboxId] = set()
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
        now = self._clock.monotonic()
        self._failed_at = {
            sandbox_id: at for sandbox_id, at in self._failed_at.items() if now - at < _AFTER_FAILURE_S
        }
        if len(self._uploading) >= _AT_ONCE:
            return
        found = await upload_store.due(
            self._database,
            limit=_AT_ONCE + len(self._failed_at) + len(self._uploading),
            only_drained=self._uploads is PauseUploads.ON_DRAIN,
        )
        for state in found:
            sandbox_id = state.sandbox_id
            is_due = sandbox_id not in self._failed_at and sandbox_id not in self._uploading
            if is_due and len(self._uploading) < _AT_ONCE:
                self._uploading.add(sandbox_id)
                self._tasks.start(f"upload {sandbox_id}", self._upload(state))

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
            self._failed_at[sandbox_id] = self._clock.monotonic()
            _log.warning("paused sandbox not stored yet", extra={**fields, "cause": str(error)})
        finally:
            self._uploading.discard(sandbox_id)
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
