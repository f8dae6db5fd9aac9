"""Deletes archives in the store that no build has: of uploads whose control plane died before it queued the build."""

from __future__ import annotations

import logging
import math
from datetime import timedelta
from typing import Final

from wrenn.base.clock import Clock
from wrenn.base.errors import InvalidRequest
from wrenn.base.ids import BuildId
from wrenn.control.builds import store
from wrenn.control.db import Database
from wrenn.control.objects import ObjectStore, StoredObject

_log = logging.getLogger(__name__)

_EVERY_S: Final = 6 * 3600.0
_GRACE: Final = timedelta(days=1)
"""Far more than an upload and the queueing of its build take."""


class AbandonedArchives:
    """Looks through the store now and then. May run on any number of replicas at once."""

    def __init__(self, *, database: Database, objects: ObjectStore, clock: Clock) -> None:
        self._database = database
        self._objects = objects
        self._clock = clock
        # A restart is a reason to look: it may have been in the middle of an upload.
        self._looked_at = -math.inf

    async def delete_due(self) -> None:
        """Delete them, if that was not done for long. Raises WrennError."""
        if self._clock.monotonic() - self._looked_at >= _EVERY_S:
            self._looked_at = self._clock.monotonic()
            await self.delete_once()

    async def delete_once(self) -> None:
        """Delete archives that are old and of no build, and what killed writes left of objects of any kind."""
        before = self._clock.now() - _GRACE
        if drafts := await self._objects.delete_drafts(before):
            _log.warning("unfinished objects of the store deleted", extra={"objects": drafts})
        for owner in await self._objects.folders():
            async for page in self._objects.pages(f"{owner}/uploads"):
                old = {_build_of(found): found.key for found in page if found.modified_at < before}
                old.pop(None, None)
                if not old:
                    continue
                builds = {build_id for build_id in old if build_id is not None}
                used = await store.with_archive_among(self._database, builds)
                unused = [key for build_id, key in old.items() if build_id not in used]
                await self._objects.delete(unused)
                if unused:
                    _log.warning(
                        "archives of no build deleted", extra={"owner": owner, "archives": len(unused)}
                    )


def _build_of(found: StoredObject) -> BuildId | None:
    try:
        return BuildId.parse(found.key.rpartition("/")[2])
    except InvalidRequest:
        return None
