"""Pauses every sandbox, for `wrenn down`: it writes the desired state, and a running control plane does the work."""

from __future__ import annotations

import asyncio
from typing import Final

from wrenn.base.errors import DeadlineExceeded
from wrenn.base.ids import SandboxId, random_hex
from wrenn.control.db import Database, Hints
from wrenn.control.sandboxes import desired_state_store, store
from wrenn.control.sandboxes.state import State

_LOOK_AGAIN_S: Final = 0.1
_ASK_AGAIN_S: Final = 1.0
"""For those that began to run since, and for those that could not be paused."""


async def pause_all(database_url: str, *, timeout_s: float) -> int:
    """Pause all sandboxes of all teams and return how many were paused, when none is running or starting any more.

    A control plane must be running on this database. One that could not be paused is tried again until the time is over.
    When this call is cancelled, what was wanted until then is done all the same.

    Raises:
        DeadlineExceeded: some still run; the message says how many, and why the first of them could not be paused.
        DatabaseUnavailable: PostgreSQL does not answer.
    """
    database = Database(database_url)
    try:
        hints = Hints(sender=random_hex(8))
        now = asyncio.get_running_loop().time
        asked: set[SandboxId] = set()
        refusal = ""
        end, ask_at = now() + timeout_s, now()
        while True:
            if now() >= ask_at:
                asked |= await desired_state_store.set_desired_paused_for_all(database, hints)
                ask_at = now() + _ASK_AGAIN_S
            live = await store.live(database)
            up = [sandbox for sandbox in live if sandbox.state_text != State.PAUSED]
            if not up:
                return sum(sandbox.sandbox_id in asked for sandbox in live)
            refusal = next((sandbox.reason for sandbox in up if sandbox.reason), refusal)
            if now() >= end:
                raise DeadlineExceeded(
                    f"{len(up)} of {len(live)} sandboxes were not paused within {timeout_s:.0f} s. {refusal}".strip()
                )
            await asyncio.sleep(_LOOK_AGAIN_S)
    finally:
        await database.close()
