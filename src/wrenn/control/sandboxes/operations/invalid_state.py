"""Raises the error for a change that the current state of a sandbox does not allow."""

from __future__ import annotations

from typing import NoReturn

from wrenn.base.errors import InvalidState
from wrenn.control.db import Database
from wrenn.control.sandboxes import store
from wrenn.control.sandboxes.records import Sandbox


async def raise_invalid_state(database: Database, sandbox: Sandbox, rule: str) -> NoReturn:
    """Raise InvalidState for a sandbox whose desired state could not be set. `rule` ends the message: "only one that runs can be paused".

    Raises:
        InvalidState: always; the message contains the current state.
    """
    now = await store.load(database, sandbox.sandbox_id) or sandbox
    raise InvalidState(f"Sandbox {sandbox.sandbox_id} is {now.state_text}: {rule}.")
