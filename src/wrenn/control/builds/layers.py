"""The layer cache: states of builds' sandboxes after some steps, from which later builds of the team begin."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from wrenn.base.errors import (
    Conflict,
    DeadlineExceeded,
    NoCapacity,
    RateLimited,
    StorageFull,
    Unavailable,
    WrennError,
)
from wrenn.base.faults import fault_point
from wrenn.base.ids import TeamId
from wrenn.control.builds import layer_store
from wrenn.control.builds.keys import BuildKeys, Shape
from wrenn.control.builds.layer_store import Layer
from wrenn.control.builds.records import Build
from wrenn.control.builds.steps import BuildSandbox
from wrenn.control.db import Database, Transaction
from wrenn.control.sandboxes import InternalSandboxes, snapshot_source_of
from wrenn.control.snapshots import SnapshotLifecycle

_log = logging.getLogger(__name__)

_DEEPEST: Final = 8
"""Memory images lie on one another as often as layers were made from layers, and each restore reads them all."""
_ANOTHER_TIME: Final = (Unavailable, DeadlineExceeded, NoCapacity, StorageFull, RateLimited, Conflict)
"""Errors that say nothing about the layer."""
_TRIED: Final = 2
"""Layers that a build tries to begin from before it begins with its base."""


@dataclass(frozen=True, slots=True)
class LayerCache:
    """Keeps and finds layers. `limit_b`: what those of one team may take together; 0: none are kept."""

    database: Database
    sandboxes: InternalSandboxes
    snapshots: SnapshotLifecycle
    limit_b: int

    async def find(self, build: Build, keys: BuildKeys, shape: Shape) -> list[tuple[int, Layer]]:
        """Return layers that a build can begin from, each with the number of steps that it contains; most steps first."""
        if not build.request.use_cache or not keys.layers:
            return []
        found = await layer_store.find(self.database, build.team_id, keys.layers, shape)
        # Steps that change nothing have the key of the one before them: the last of them counts.
        steps = {key: number for number, key in enumerate(keys.layers, start=1) if key in found}
        longest_first = sorted(steps.items(), key=lambda item: -item[1])
        return [(number, found[key]) for key, number in longest_first[:_TRIED]]

    async def not_usable(self, layer: Layer, error: WrennError) -> None:
        """Deal with a layer from which no sandbox could be made: it is removed, unless it may be usable another time."""
        _log.info("layer not usable", extra={"snapshot_id": str(layer.snapshot_id), "cause": error.message})
        if not isinstance(error, _ANOTHER_TIME):
            await self.database.transaction(lambda tx: layer_store.remove(tx, layer))

    async def keep(
        self,
        build: Build,
        sandbox: BuildSandbox,
        key: str,
        shape: Shape,
        origin: Layer | None,
        *,
        made_at: datetime | None,
    ) -> None:
        """Keep the state of the sandbox as a layer. That it could not be kept fails no build.

        `origin`, `made_at`: as in `layer_store.insert_layer`.
        """
        if not self.limit_b or (origin is not None and origin.depth >= _DEEPEST):
            return
        if build.request.use_cache and await layer_store.exists_with(
            self.database, build.team_id, key, shape
        ):
            return
        try:
            await self._take(build, sandbox, key, shape, origin, made_at=made_at)
        except WrennError as error:
            _log.info("layer not kept", extra={"build_id": str(build.build_id), "cause": error.message})

    async def _take(
        self,
        build: Build,
        sandbox: BuildSandbox,
        key: str,
        shape: Shape,
        origin: Layer | None,
        *,
        made_at: datetime | None,
    ) -> None:
        row, host = await self.sandboxes.get(sandbox.sandbox_id)
        source = snapshot_source_of(row, host.endpoint)
        snapshot_id = await self.snapshots.begin(source)
        with self.snapshots.renewing_lease(snapshot_id):
            try:
                await fault_point("control.build.layer_begun")
                taken = await self.snapshots.take(source, snapshot_id)
                await fault_point("control.build.layer_taken")

                async def publish(tx: Transaction) -> None:
                    await self.snapshots.keep_hidden(tx, snapshot_id, taken)
                    await layer_store.insert_layer(
                        tx, snapshot_id, build.team_id, key, shape, origin=origin, made_at=made_at
                    )
                    await layer_store.remove_excess(tx, build.team_id, most_b=self.limit_b)

                await self.database.transaction(publish)
            except BaseException:
                await asyncio.shield(self.snapshots.take_back(snapshot_id))
                raise
        await fault_point("control.build.layer_kept")

    async def environment_of(self, build: Build, base_key: str) -> dict[str, str] | None:
        """Return the variables of programs in sandboxes of a base; None: a sandbox has to be asked."""
        if not build.request.use_cache:
            return None
        return await layer_store.environment_of(self.database, build.team_id, base_key)

    async def remember_environment(
        self, team_id: TeamId, base_key: str, environment: Mapping[str, str]
    ) -> None:
        """Record what `environment_of` returns."""
        await layer_store.remember_environment(self.database, team_id, base_key, environment)
