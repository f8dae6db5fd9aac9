"""Ends visits of public ports when the port is not public any more.

Such a visit has no credential that could be checked again (see `auth.OpenCalls`). So the ports of the sandboxes that have such visits are read again
when the database notifies of a change of any sandbox, in one query.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass

from wrenn.base.errors import AccessLost
from wrenn.base.ids import SandboxId
from wrenn.control.auth import WatchedCalls, endable
from wrenn.control.db import Database
from wrenn.control.sandboxes import ingress_of


@dataclass(eq=False, slots=True)
class _Visit:
    port: int
    end: Callable[[AccessLost], None]


class PublicVisits:
    """The visits of public ports that go on at this replica."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._visits = WatchedCalls[SandboxId, _Visit]("look at visits of public ports", self._check)
        self.loop = self._visits.loop

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
            with self._visits.registered(sandbox_id, _Visit(port, end)):
                yield

    async def run(self) -> None:
        """Look at the ports at an interval and when woken, until cancelled."""
        await self._visits.run()

    async def check_once(self) -> None:
        """Read the ports of all sandboxes that are visited, and end the visits of those that are not public any more."""
        await self._visits.check_once()

    async def _check(self, sandbox_ids: Sequence[SandboxId]) -> None:
        found = await ingress_of(self._database, sandbox_ids)
        for sandbox_id in sandbox_ids:
            ingress = found.get(sandbox_id)
            for visit in self._visits.of(sandbox_id):
                if ingress is None or not ingress.is_public(visit.port):
                    visit.end(AccessLost("This port is not public any more."))
