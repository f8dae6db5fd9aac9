"""Which calls may be retried, and after which delays.

A request that was certainly not sent is always retried. Once bytes were sent, only *repeatable* calls are:
reads, removals, and a create with its idempotency key. Commands and writes are not, because they may have
been carried out. Pause, resume and deleting a template are retried too: if the platform then reports that
nothing is left to do, the earlier attempt may be the reason (`earlier_attempt_sent`).
"""

from __future__ import annotations

import random
from typing import Final

from wrenn.sdk.errors import CapacityError, ConnectionFailedError, UnavailableError, WrennError

PAUSES_S: Final = (0.1, 0.2, 0.4, 0.8, 1.6)
"""Delays between attempts: six attempts in about three seconds outlast a restart of the control plane."""


def may_repeat(error: WrennError, *, repeatable: bool) -> bool:
    """Whether the request can safely be sent again, and whether that may help."""
    if isinstance(error, ConnectionFailedError):
        return repeatable or not error.request_sent
    return repeatable and error.status == 503 and isinstance(error, (UnavailableError, CapacityError))


def may_have_been_done(error: WrennError) -> bool:
    """False only if it is certain that the platform never received the request that failed with `error`."""
    return not isinstance(error, ConnectionFailedError) or error.request_sent


def jittered(pause_s: float) -> float:
    """Return a random delay between half of `pause_s` and all of it, so that clients do not retry at the same moment."""
    return pause_s * random.uniform(0.5, 1.0)  # noqa: S311 - no secret
