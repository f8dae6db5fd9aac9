"""Removes all sandboxes and snapshots of a host that was deleted."""

from __future__ import annotations

import asyncio
import logging
from typing import Final

from wrenn.agent.sandboxes.registry import Sandboxes
from wrenn.base.errors import InternalError, WrennError
from wrenn.base.ids import SandboxId, SnapshotId

_log = logging.getLogger(__name__)

_AT_ONCE: Final = 8
_LIMIT_S: Final = 25.0


async def remove_everything(sandboxes: Sandboxes) -> None:
    """Remove all sandboxes, then all snapshots.

    Raises:
        InternalError: something is left; it may be tried again.
    """
    slots = asyncio.Semaphore(_AT_ONCE)

    async def remove(sandbox_id: SandboxId) -> None:
        async with slots:
            try:
                await sandboxes.remove(sandbox_id)
            except WrennError as error:
                _log.warning(
                    "sandbox not removed", extra={"sandbox_id": str(sandbox_id), "cause": error.message}
                )

    try:
        async with asyncio.timeout(_LIMIT_S):
            await asyncio.gather(*(remove(record.spec.sandbox_id) for record, _ in sandboxes.list()))
    except TimeoutError:
        _log.warning("sandboxes not removed in time")
    for snapshot in sandboxes.list_snapshots():
        sandboxes.remove_snapshot(SnapshotId.parse(snapshot.manifest.snapshot_id))
    if sandboxes.list():
        raise InternalError("Not all sandboxes of this deleted host could be removed: start the agent again.")
