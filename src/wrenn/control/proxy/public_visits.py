"""Ends visits of public ports when the port is not public any more.

Such a visit has no credential that could be checked again (see `auth.OpenCalls`). So the ports of the sandboxes that have such visits are read again
when the database notifies of a change of any sandbox, in one query.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Final

from wrenn.base.errors import AccessLost
from wrenn.base.ids import SandboxId
from wrenn.base.loops import Loop
from wrenn.control.auth import endable
from wrenn.control.db import Database
from wrenn.control.sandboxes import ingress_of

_EVERY_S: Final = 2.0
"""Seconds between two checks by the timer: how late a lost notification is noticed."""
_COALESCE_S: Final = 0.5
"""The least time between two checks, however many notifications arrive."""
_BATCH: Final = 1000
"""Sandboxes in one statement."""


@dataclass(eq=False, slots=True)
class _Visit:
    port: int
    end: Callable[[AccessLost], None]


class PublicVisits:
    """The visits of public ports that go on at this replica."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._visits: dict[SandboxId, set[_Visit]] = {}
        self._some = asyncio.Event()
        self.loop = Loop("look at visits of public ports")

    def wake(self) -> None:
        """Look soon: the ports of some sandbox may have changed."""
        self.loop.wake()

    @asynccontextmanager
    async def while_public(self, sandbox_id: SandboxId, port: int) -> AsyncGenerator[None]:
        """Run the body and cancel it once the port is not public any more.

        Raises:
            AccessLost: that is so. The body was cancelled.
        """
        async with endable() as end:
            visit = _Visit(port, end)
            self._visits.setdefault(sandbox_id, set()).add(visit)
            self._some.set()
            try:
                yield
            finally:
                visits = self._visits[sandbox_id]
                visits.discard(visit)
                if not visits:
                    del self._visits[sandbox_id]
                if not self._visits:
                    self._some.clear()
                    self.loop.clear_error()

    async def run(self) -> None:
        """Look at the ports at an interval and when woken, until cancelled."""
        while True:
            await self._some.wait()
            await self.loop.wait(_EVERY_S)
            await self.loop.attempt(self.check_once, otherwise=None)
            await asyncio.sleep(_COALESCE_S)

    async def check_once(self) -> None:
        """Read the ports of all sandboxes that are visited, and end the visits of those that are not public any more."""
        sandbox_ids = list(self._visits)
        for begin in range(0, len(sandbox_ids), _BATCH):
            batch = sandbox_ids[begin : begin + _BATCH]
            found = await ingress_of(self._database, batch)
            for sandbox_id in batch:
                ingress = found.get(sandbox_id)
                for visit in list(self._visits.get(sandbox_id, ())):
                    if ingress is None or not ingress.is_public(visit.port):
                        visit.end(AccessLost("This port is not public any more."))
