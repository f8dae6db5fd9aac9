"""The refusal of a change that the present state does not allow."""

from __future__ import annotations

from wrenn.base.errors import InvalidState
from wrenn.control.db import Database
from wrenn.control.sandboxes import store
from wrenn.control.sandboxes.records import Sandbox


async def raise_invalid_state(database: Database, sandbox: Sandbox, rule: str) -> None:
    """Raise that the sandbox, whose desired state could not be set, is in a state that `rule` does not allow.

    Raises:
        InvalidState: always; the message has the present state.
    """
    now = await store.load(database, sandbox.sandbox_id) or sandbox
    raise InvalidState(f"Sandbox {sandbox.sandbox_id} is {now.state_text}: {rule}.")
