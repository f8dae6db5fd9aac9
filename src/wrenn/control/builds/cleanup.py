"""Removes what builds that have ended left: sandboxes whose replica died, archives in the store. Every replica does it."""

from __future__ import annotations

import asyncio
from typing import Final

from wrenn.base.ids import BuildId
from wrenn.base.loops import Loop
from wrenn.control.audit import SYSTEM
from wrenn.control.builds import store
from wrenn.control.builds.abandoned_archives import AbandonedArchives
from wrenn.control.builds.runner import CAUSE
from wrenn.control.db import Database
from wrenn.control.objects import ObjectStore
from wrenn.control.sandboxes import InternalSandboxes

_EVERY_S: Final = 10.0
"""Or twice the time of a lease, if that is shorter."""
_ARCHIVES: Final = 20
"""Archives that are deleted in one round."""


class BuildCleanup:
    """Removes sandboxes and archives of builds that have ended. Sandboxes do not wait for the store: they take memory and quota."""

    def __init__(
        self,
        *,
        database: Database,
        objects: ObjectStore,
        sandboxes: InternalSandboxes,
        abandoned: AbandonedArchives,
        lease_s: float,
    ) -> None:
        self._database = database
        self._objects = objects
        self._sandboxes = sandboxes
        self._abandoned = abandoned
        self._every_s = min(_EVERY_S, 2 * lease_s)
        self.loop = Loop("clean up after builds")

    async def run(self) -> None:
        """Look at an interval and when woken, until cancelled."""
        await self.loop.run(self.clean_once, every_s=self._every_s)

    async def clean_once(self) -> None:
        """Remove what is there now. Raises WrennError: something was left for the next time."""
        await self._remove_sandboxes()
        try:
            await self._delete_archives()
        finally:
            await self._abandoned.delete_due()

    async def _remove_sandboxes(self) -> None:
        """Remove sandboxes whose replica died before it did so."""
        found = await self._sandboxes.of_builds()
        running = await store.running_among(self._database, [build_id for _, build_id in found])
        for sandbox_id, build_id in found:
            if build_id not in running:
                await self._sandboxes.begin_removal(sandbox_id, SYSTEM, cause=CAUSE)

    async def _delete_archives(self) -> None:
        """Delete the archives of builds that have ended, however they did. The others are deleted though one cannot be."""
        found = await store.archives_of_ended(self._database, limit=_ARCHIVES)
        outcomes = await asyncio.gather(
            *(self._delete_archive(build_id, key) for build_id, key in found), return_exceptions=True
        )
        for outcome in outcomes:
            if outcome is not None:
                raise outcome

    async def _delete_archive(self, build_id: BuildId, key: str) -> None:
        await self._objects.delete([key])
        await store.forget_archive(self._database, build_id)
