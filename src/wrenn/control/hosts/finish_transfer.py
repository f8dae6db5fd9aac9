"""Has a host carry out a transfer with the store, and waits for its end."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Awaitable, Callable
from typing import Final

from wrenn.base.errors import AgentFailure, DeadlineExceeded, Unavailable, error_class
from wrenn.control.hosts.types import HostTransfer, HostTransferState

TRANSFER_WAIT_S: Final = 20.0
"""Longest time that one call waits for a transfer."""
_RETRY_S: Final = 1.0
_STALLED_S: Final = 900.0
"""A transfer that gets no further for so long is given up. One of a large state is prepared for minutes, and may wait for others before it begins."""


async def finish_transfer(
    call: Callable[[], Awaitable[HostTransfer]], *, before_call: Callable[[], Awaitable[None]], retry_s: float
) -> None:
    """Call a host until the transfer is done. `before_call` raises if it is not wanted any more: a call would begin it again.

    Raises:
        What `before_call` raises. WrennError: the host's reason if it failed, and what the call raised if the host does not answer
            for `retry_s`. DeadlineExceeded: it got no further for a quarter of an hour.
    """
    now = asyncio.get_running_loop().time
    silent_since = math.inf
    done_b, got_further_at = 0, now()
    while True:
        begun = now()
        try:
            await before_call()
            transfer = await call()
            if transfer.state is HostTransferState.FAILED and transfer.error_code == Unavailable.code:
                # Its agent stops, or has not found the control plane yet.
                raise Unavailable(transfer.error)
        except (Unavailable, DeadlineExceeded, AgentFailure):
            silent_since = min(silent_since, now())
            if now() - silent_since >= retry_s:
                raise
            await asyncio.sleep(_RETRY_S)
            continue
        silent_since = math.inf
        if transfer.state is HostTransferState.DONE:
            return
        if transfer.state is HostTransferState.FAILED:
            raise error_class(transfer.error_code)(transfer.error)
        if transfer.done_b > done_b:
            done_b, got_further_at = transfer.done_b, now()
        elif now() - got_further_at >= _STALLED_S:
            raise DeadlineExceeded("The host got no further with the transfer.")
        if now() - begun < _RETRY_S:
            # A host that does not wait, as it was asked to, must not cost a statement and a call for each of its answers.
            await asyncio.sleep(_RETRY_S)
