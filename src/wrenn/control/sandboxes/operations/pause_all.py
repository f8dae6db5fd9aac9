"""Pauses every sandbox, for `wrenn down`: it writes the desired state, and a running control plane does the work."""

from __future__ import annotations

import asyncio
from typing import Final

from wrenn.base.errors import DeadlineExceeded
from wrenn.base.ids import SandboxId, random_hex
from wrenn.control.db import Database, Hints
from wrenn.control.sandboxes import desired_state_store, store
from wrenn.control.sandboxes.state import State

_CHECK_AGAIN_S: Final = 0.1
_SET_AGAIN_S: Final = 1.0
"""How often the desired state is set again, for sandboxes that started since or could not be paused."""


async def pause_all(database_url: str, *, timeout_s: float) -> int:
    """Pause all sandboxes of all teams and return how many were paused, when none is running or starting any more.

    A control plane must be running on this database. A sandbox that could not be paused is tried again until the time is over.
    A cancellation does not take back the desired states that were set until then.

    Raises:
        DeadlineExceeded: some are still running; the message says how many, and the reason of one of them.
        DatabaseUnavailable: PostgreSQL does not answer.
    """
    database = Database(database_url)
    try:
        hints = Hints(sender=random_hex(8))
        now = asyncio.get_running_loop().time
        pausing: set[SandboxId] = set()
        refusal = ""
        end, set_at = now() + timeout_s, now()
        while True:
            if now() >= set_at:
                pausing |= await desired_state_store.set_desired_paused_for_all(database, hints)
                set_at = now() + _SET_AGAIN_S
            live = await store.live(database)
            running = [sandbox for sandbox in live if sandbox.state_text != State.PAUSED]
            if not running:
                return sum(sandbox.sandbox_id in pausing for sandbox in live)
            refusal = next((sandbox.reason for sandbox in running if sandbox.reason), refusal)
            if now() >= end:
                raise DeadlineExceeded(
                    f"{len(running)} of {len(live)} sandboxes were not paused within {timeout_s:.0f} s. {refusal}".strip()
                )
            await asyncio.sleep(_CHECK_AGAIN_S)
    finally:
        await database.close()
