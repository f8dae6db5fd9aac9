"""Stores the steps of a call to a host while it lasts, so that people see how far a slow create, pause or resume is.

A call that is quick is not followed: its answer has its steps. A host that does not answer the question for the steps is not there, or
cannot be reached: a call that waits for it would tell only much later.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from typing import Final

from wrenn.base.errors import DeadlineExceeded, NotFound, Unavailable, WrennError
from wrenn.control.db import Database
from wrenn.control.hosts import HostClient, HostSteps
from wrenn.control.sandboxes.reconcile import work_store
from wrenn.control.sandboxes.records import Work

_log = logging.getLogger(__name__)

_EVERY_S: Final = 0.5
_TIMEOUT_S: Final = 5.0
_SILENT_S: Final = 2.0
"""Without an answer, after which the host is taken for silent."""
_END_TIMEOUT_S: Final = 0.5


@asynccontextmanager
async def following(
    database: Database,
    client: HostClient,
    work: Work,
    operation: str,
    *,
    owner: str,
    silent: Callable[[], None],
) -> AsyncGenerator[None]:
    """Store the steps of this operation while the body calls the host to do it. `silent` is called if the host does not answer."""
    ended = asyncio.Event()
    task = asyncio.create_task(_follow(database, client, work, operation, ended, owner=owner, silent=silent))
    try:
        yield
    finally:
        ended.set()
        try:
            # A question that is under way takes milliseconds, and costs a connection if it is cut off.
            await asyncio.wait({task}, timeout=_END_TIMEOUT_S)
        finally:
            task.cancel()
            await asyncio.wait({task})


async def _follow(
    database: Database,
    client: HostClient,
    work: Work,
    operation: str,
    ended: asyncio.Event,
    *,
    owner: str,
    silent: Callable[[], None],
) -> None:
    last = HostSteps()
    try:
        while not await _is_set(ended, within_s=_EVERY_S):
            waited_long = asyncio.get_running_loop().call_later(_SILENT_S, silent)
            try:
                found = await client.get_steps(work.sandbox_id, timeout_s=_TIMEOUT_S)
            except NotFound:
                continue  # the call has not arrived yet
            finally:
                waited_long.cancel()
            # Until the host begins, it has the steps of what was done before.
            if found.operation != operation or found == last or not found.steps:
                continue
            if not await work_store.write_steps(database, work, found, owner=owner):
                return
            last = found
    except WrennError as error:
        # It is of an older release, or does not answer: the call itself says what is wrong.
        if isinstance(error, Unavailable | DeadlineExceeded):
            silent()
        _log.debug("steps are not known", extra={"sandbox_id": str(work.sandbox_id), "cause": error.message})


async def _is_set(event: asyncio.Event, *, within_s: float) -> bool:
    try:
        async with asyncio.timeout(within_s):
            await event.wait()
    except TimeoutError:
        return False
    return True
