"""Removes all sandboxes and snapshots of a host that was deleted."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Final

from wrenn.agent.sandboxes.registry import Sandboxes
from wrenn.base.errors import InternalError
from wrenn.base.ids import SandboxId, SnapshotId

_log = logging.getLogger(__name__)

_AT_ONCE: Final = 8
_LIMIT_S: Final = 25.0
"""How long one removal is waited for; it goes on, and is waited for again."""
_ROUNDS_WITHOUT_SUCCESS: Final = 5


async def remove_everything(sandboxes: Sandboxes, *, removed: Callable[[], object]) -> None:
    """Remove all sandboxes, then all snapshots, however many there are. `removed` is called after each.

    Raises:
        InternalError: sandboxes are left which could not be removed several times in a row.
    """
    slots = asyncio.Semaphore(_AT_ONCE)

    async def remove(sandbox_id: SandboxId) -> bool:
        async with slots:
            try:
                async with asyncio.timeout(_LIMIT_S):
                    await sandboxes.remove(sandbox_id)
            except Exception:  # noqa: BLE001 - one that cannot be removed must not keep the others
                _log.exception("sandbox not removed", extra={"sandbox_id": str(sandbox_id)})
                return False
            removed()
            return True

    failed_rounds = 0
    while left := [record.spec.sandbox_id for record, _ in sandboxes.list()]:
        outcomes = await asyncio.gather(*map(remove, left))
        failed_rounds = 0 if any(outcomes) else failed_rounds + 1
        if failed_rounds == _ROUNDS_WITHOUT_SUCCESS:
            raise InternalError(
                f"{len(left)} sandboxes of this deleted host could not be removed: start the agent again."
            )
        await asyncio.sleep(failed_rounds)
    for name in sandboxes.list_snapshot_ids():
        sandboxes.remove_snapshot(SnapshotId.parse(name))
        removed()
