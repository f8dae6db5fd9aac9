"""The last step of create, pause and resume; they also handle lost responses and concurrent calls for the same sandbox."""

from __future__ import annotations

import time
from contextlib import suppress
from datetime import datetime
from typing import Final

from wrenn.base.on_failure import on_failure_await
from wrenn.sdk._aio import sleep
from wrenn.sdk._async.api import AsyncApi, path_of
from wrenn.sdk._lease import no_lease
from wrenn.sdk._parse import Fields, json_of
from wrenn.sdk._retry import jittered
from wrenn.sdk.errors import InvalidStateError, WrennError
from wrenn.sdk.types import OnExpiry, SandboxInfo

TRANSITION_TIMEOUT_S: Final = 10.0
"""Longest time to wait for a pause or resume in progress: a grace period of two seconds, and some GB of memory to copy.

Until then the platform reports the former status and refuses a second request.
"""
POLL_S: Final = 0.2
MOVE_TIMEOUT_S: Final = 660.0
"""Longer than the platform waits for a move before it answers that it goes on."""
REMOVE_TIMEOUT_S: Final = 10.0
"""Longest time for removing a sandbox whose create failed; after that its lifetime of ten minutes ends it."""


async def info(api: AsyncApi, sandbox_id: str) -> SandboxInfo:
    """Return the sandbox's current state."""
    body = await api.call("GET", path_of(sandbox_id), repeatable=True)
    return SandboxInfo.parse(Fields("sandbox", json_of(body)))


async def pause(api: AsyncApi, sandbox_id: str, *, keep_memory: bool = True) -> None:
    """Pause it. If a retry finds it paused, that is a success: the attempt whose response was lost did it.

    Raises:
        InvalidStateError: it was not running.
    """
    await _ensure_state("paused", api, sandbox_id, "pause", keep_memory=keep_memory)


async def resume(api: AsyncApi, sandbox_id: str, *, keep_memory: bool = True) -> None:
    """Resume it. If a retry finds it running, that is a success: the attempt whose response was lost did it.

    Raises:
        InvalidStateError: it was not paused.
    """
    await _ensure_state("running", api, sandbox_id, "resume", keep_memory=keep_memory)


async def move(api: AsyncApi, sandbox_id: str, *, pause: bool) -> None:
    """Move it to another host, and return when it is there."""
    await api.call("POST", path_of(sandbox_id, "move"), json={"pause": pause}, timeout_s=MOVE_TIMEOUT_S)


async def recover(api: AsyncApi, sandbox_id: str) -> datetime:
    """Start it on another host, and return when the state was saved from which it goes on."""
    body = await api.call("POST", path_of(sandbox_id, "recover"), timeout_s=MOVE_TIMEOUT_S)
    return Fields("recovered sandbox", json_of(body)).time("saved_at")


async def resume_if_paused(api: AsyncApi, sandbox_id: str) -> SandboxInfo:
    """Resume it if it is paused; it does not matter who does. Returns its last known state.

    Raises:
        InvalidStateError: the platform refuses, and it stays paused.
    """
    deadline = time.monotonic() + TRANSITION_TIMEOUT_S
    while (seen := await info(api, sandbox_id)).status == "paused":
        try:
            await resume(api, sandbox_id)
            return seen
        except InvalidStateError:
            # Another client is resuming it, or did so and it was paused again: only its current state shows
            # which.
            if time.monotonic() >= deadline:
                raise
        await sleep(jittered(POLL_S))
    return seen


async def _ensure_state(status: str, api: AsyncApi, sandbox_id: str, verb: str, *, keep_memory: bool) -> None:
    # Platforms of earlier versions refuse no body, and keep the memory.
    body = None if keep_memory else {"keep_memory": False}
    try:
        await api.call("POST", path_of(sandbox_id, verb), json=body, repeatable=True)
    except InvalidStateError as error:
        if not error.earlier_attempt_sent or not await _reaches(status, api, sandbox_id):
            raise


async def _reaches(status: str, api: AsyncApi, sandbox_id: str) -> bool:
    """Whether the lost attempt takes effect, at once or when it is done."""
    deadline = time.monotonic() + TRANSITION_TIMEOUT_S
    while True:
        now = (await info(api, sandbox_id)).status
        if now == status:
            return True
        if now not in ("running", "paused") or time.monotonic() >= deadline:
            return False
        await sleep(jittered(POLL_S))


async def end_lease(api: AsyncApi, sandbox_id: str, *, on_expiry: OnExpiry) -> None:
    """Remove the lifetime that it was created with. If that fails or is cancelled, remove the sandbox."""

    async def remove() -> None:
        # Nobody knows its id, and it may no longer have a lifetime limit.
        with suppress(WrennError):
            await api.call("DELETE", path_of(sandbox_id), repeatable=True, timeout_s=REMOVE_TIMEOUT_S)

    async with on_failure_await(remove):
        await api.call("PATCH", path_of(sandbox_id, "timeout"), json=no_lease(on_expiry), repeatable=True)
