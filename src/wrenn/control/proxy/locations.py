"""Finds the host of a sandbox for visitors: looked up once for many requests, and forgotten at each hint of a change."""

from __future__ import annotations

from dataclasses import dataclass

from wrenn.base.clock import Clock
from wrenn.base.ids import SandboxId
from wrenn.control.auth import Actor
from wrenn.control.db import Database
from wrenn.control.hosts import HostClient, HostClients
from wrenn.control.proxy.lookup_cache import LookupCache
from wrenn.control.sandboxes import RunningSandboxes, Sandbox, find_location


@dataclass(frozen=True, slots=True)
class SandboxLocation:
    """A sandbox of any team, and the client for its host."""

    sandbox: Sandbox
    host: HostClient


class SandboxLocations:
    """Finds sandboxes and their hosts for visitors. Only running sandboxes are cached; the others are looked up each time."""

    def __init__(
        self, *, database: Database, clients: HostClients, running_sandboxes: RunningSandboxes, clock: Clock
    ) -> None:
        self._database = database
        self._clients = clients
        self._running = running_sandboxes
        self._lookups = LookupCache[SandboxId, SandboxLocation | None](
            self._look, clock, keep=lambda location: location is not None and location.sandbox.is_usable
        )

    async def find(self, sandbox_id: SandboxId) -> SandboxLocation | None:
        """Return the sandbox, in any state; None: there is none. The caller of this function checks access."""
        return await self._lookups.get(sandbox_id)

    async def _look(self, sandbox_id: SandboxId) -> SandboxLocation | None:
        found = await find_location(self._database, sandbox_id)
        return None if found is None else SandboxLocation(found[0], self._clients.at(found[1]))

    async def resume_if_needed(self, location: SandboxLocation, *, by: Actor) -> HostClient:
        """Return the client for the host once the sandbox is running; one with `auto_resume` is resumed first. The caller has checked access.

        Raises:
            As `RunningSandboxes.resume_if_needed`.
        """
        if location.sandbox.is_usable:
            return location.host
        running = await self._running.resume_if_needed(location.sandbox, location.host.endpoint, by=by)
        return running.host

    def forget(self, sandbox_id: SandboxId) -> None:
        """Drop this sandbox from the cache, because its host reported that the entry is outdated."""
        self._lookups.forget(sandbox_id)

    def forget_all(self) -> None:
        """Drop all sandboxes from the cache, because something changed."""
        self._lookups.forget_all()
