"""Create's last step, pause and resume, also when an answer was lost or somebody else does the same at that moment."""

from __future__ import annotations

import time
from contextlib import suppress
from typing import Final

from wrenn.sdk._aio import sleep
from wrenn.sdk._async.api import AsyncApi, path_of
from wrenn.sdk._lease import no_lease
from wrenn.sdk._parse import Fields, json_of
from wrenn.sdk._retry import jittered
from wrenn.sdk.errors import InvalidStateError, WrennError
from wrenn.sdk.types import OnExpiry, SandboxInfo

UNDER_WAY_S: Final = 10.0
"""Longest for a pause or resume that is under way to end: the grace of two seconds, and some GB of memory to copy.

Until then the platform shows the former status and refuses a second request.
"""
LOOK_AGAIN_S: Final = 0.2
REMOVE_TIMEOUT_S: Final = 10.0
"""Longest for the removal of a sandbox whose create failed; after that its lifetime of ten minutes ends it."""


async def info(api: AsyncApi, sandbox_id: str) -> SandboxInfo:
    """The sandbox as the platform knows it now."""
    body = await api.call("GET", path_of(sandbox_id), repeatable=True)
    return SandboxInfo.parse(Fields("sandbox", json_of(body)))


async def pause(api: AsyncApi, sandbox_id: str) -> None:
    """Pause it. A repetition that finds it paused is a success: the attempt whose answer was lost did it.

    Raises:
        InvalidStateError: it was not running.
    """
    await _brought_to("paused", api, sandbox_id, "pause")


async def resume(api: AsyncApi, sandbox_id: str) -> None:
    """Resume it. A repetition that finds it running is a success: the attempt whose answer was lost did it.

    Raises:
        InvalidStateError: it was not paused.
    """
    await _brought_to("running", api, sandbox_id, "resume")


async def wake(api: AsyncApi, sandbox_id: str) -> SandboxInfo:
    """Resume it if it is paused; that somebody else does it first is as good. Returns what was last seen of it.

    Raises:
        InvalidStateError: the platform refuses, and it stays paused.
    """
    deadline = time.monotonic() + UNDER_WAY_S
    while (seen := await info(api, sandbox_id)).status == "paused":
        try:
            await resume(api, sandbox_id)
            return seen
        except InvalidStateError:
            # Somebody else resumes it, or has done so since the look and it is paused again: only a look tells.
            if time.monotonic() >= deadline:
                raise
        await sleep(jittered(LOOK_AGAIN_S))
    return seen


async def _brought_to(status: str, api: AsyncApi, sandbox_id: str, verb: str) -> None:
    try:
        await api.call("POST", path_of(sandbox_id, verb), repeatable=True)
    except InvalidStateError as error:
        if not error.earlier_attempt_sent or not await _becomes(status, api, sandbox_id):
            raise


async def _becomes(status: str, api: AsyncApi, sandbox_id: str) -> bool:
    """Whether the attempt that was lost has its effect, at once or when it ends."""
    deadline = time.monotonic() + UNDER_WAY_S
    while True:
        now = (await info(api, sandbox_id)).status
        if now == status:
            return True
        if now not in ("running", "paused") or time.monotonic() >= deadline:
            return False
        await sleep(jittered(LOOK_AGAIN_S))


async def end_lease(api: AsyncApi, sandbox_id: str, *, on_expiry: OnExpiry) -> None:
    """End the lifetime that it was created with. If that fails, or is cancelled, the sandbox is removed."""
    try:
        await api.call("PATCH", path_of(sandbox_id, "timeout"), json=no_lease(on_expiry), repeatable=True)
    except BaseException:
        # Nobody will know it, and it may have no end any more.
        with suppress(WrennError):
            await api.call("DELETE", path_of(sandbox_id), repeatable=True, timeout_s=REMOVE_TIMEOUT_S)
        raise
