"""Pause and resume, also when an answer was lost or somebody else does the same at that moment."""

from __future__ import annotations

import time
from typing import Final

from wrenn.sdk._aio import sleep
from wrenn.sdk._async.api import AsyncApi, path_of
from wrenn.sdk._parse import Fields, json_of
from wrenn.sdk._retry import jittered
from wrenn.sdk.errors import DeadlineExceededError, InvalidStateError
from wrenn.sdk.types import SandboxInfo

LOOK_AGAIN_S: Final = 0.2
"""Between two looks at a sandbox that somebody else is pausing or resuming, which takes some tenths of a second."""
REFUSALS: Final = 5
"""So often may a sandbox be found paused and yet not be resumed: by then it is no race."""


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


async def wake(api: AsyncApi, sandbox_id: str, *, timeout_s: float) -> None:
    """Resume it if it is paused or about to be; that somebody else does it first is as good.

    Raises:
        InvalidStateError: the platform refuses, and it stays paused.
        DeadlineExceededError: what others do with it did not end within `timeout_s`.
    """
    deadline = time.monotonic() + timeout_s
    refusals = 0
    while time.monotonic() < deadline:
        status = (await info(api, sandbox_id)).status
        if status == "paused":
            try:
                await resume(api, sandbox_id)
                return
            except InvalidStateError:
                # Somebody else resumed it since the look, and it may be paused again: only another look tells.
                refusals += 1
                if refusals == REFUSALS:
                    raise
        elif status not in ("pausing", "resuming"):
            return
        else:
            await sleep(jittered(LOOK_AGAIN_S))
    raise DeadlineExceededError(f"Sandbox {sandbox_id} was not resumed within {timeout_s:.0f} s.")


async def _brought_to(status: str, api: AsyncApi, sandbox_id: str, verb: str) -> None:
    try:
        await api.call("POST", path_of(sandbox_id, verb), repeatable=True)
    except InvalidStateError as error:
        if not error.earlier_attempt_sent or (await info(api, sandbox_id)).status != status:
            raise
