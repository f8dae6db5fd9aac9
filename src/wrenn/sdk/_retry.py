"""When a call may be repeated, and after which pause.

A request that never left is repeated always. After bytes were sent only a *repeatable* call is: reads, removals, and a
create with its idempotency key. Commands and writes are not, since nobody can tell whether they were carried out. Pause,
resume and the deletion of a template are repeated too: when the platform then says that it is so already, the earlier
attempt may be why (`earlier_attempt_sent`).
"""

from __future__ import annotations

import random
from typing import Final

from wrenn.sdk.errors import CapacityError, ConnectionFailedError, UnavailableError, WrennError

PAUSES_S: Final = (0.1, 0.2, 0.4, 0.8, 1.6)
"""Pauses between attempts: six attempts in about three seconds outlast a restart of the control plane."""


def may_repeat(error: WrennError, *, repeatable: bool) -> bool:
    """True when it is safe, and of use, to send the request again."""
    if isinstance(error, ConnectionFailedError):
        return repeatable or not error.request_sent
    return repeatable and error.status == 503 and isinstance(error, (UnavailableError, CapacityError))


def may_be_done(error: WrennError) -> bool:
    """True unless it is certain that the platform never saw the request that failed with `error`."""
    return not isinstance(error, ConnectionFailedError) or error.request_sent


def jittered(pause_s: float) -> float:
    """Between half of the pause and all of it, so that many clients do not return at the same moment."""
    return pause_s * random.uniform(0.5, 1.0)  # noqa: S311 - no secret
