"""Where a sandbox is, for visitors: looked up once for many requests, and forgotten at each hint that something changed."""

from __future__ import annotations

from dataclasses import dataclass

from wrenn.base.clock import Clock
from wrenn.base.ids import SandboxId
from wrenn.control.auth import Actor
from wrenn.control.db import Database
from wrenn.control.hosts import HostClient, HostClients
from wrenn.control.proxy.recent import Recent
from wrenn.control.sandboxes import Sandbox, Targets, find_place


@dataclass(frozen=True, slots=True)
class Place:
    """A sandbox of any team, and its host."""

    sandbox: Sandbox
    host: HostClient


class Places:
    """See the module head. Only sandboxes that run are remembered: what becomes of the others is looked up each time."""

    def __init__(self, *, database: Database, clients: HostClients, targets: Targets, clock: Clock) -> None:
        self._database = database
        self._clients = clients
        self._targets = targets
        self._recent = Recent[SandboxId, Place | None](
            self._look, clock, keep=lambda place: place is not None and place.sandbox.is_usable
        )

    async def find(self, sandbox_id: SandboxId) -> Place | None:
        """The sandbox, in any state; None: there is none. Whose it is, the caller checks."""
        return await self._recent.get(sandbox_id)

    async def _look(self, sandbox_id: SandboxId) -> Place | None:
        found = await find_place(self._database, sandbox_id)
        return None if found is None else Place(found[0], self._clients.at(found[1]))

    async def ready(self, place: Place, *, by: Actor) -> HostClient:
        """The host, once the sandbox runs; with `auto_resume` it is resumed. Only for who may visit it.

        Raises:
            as `Targets.ready`.
        """
        if not place.sandbox.is_usable:
            await self._targets.ready(place.sandbox, by=by)
        return place.host

    def forget(self, sandbox_id: SandboxId) -> None:
        """Its host says that it is not as we thought."""
        self._recent.forget(sandbox_id)

    def forget_all(self) -> None:
        """Something changed somewhere."""
        self._recent.forget_all()
