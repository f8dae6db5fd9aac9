"""Keeps what a build has made, as a version of its template: with memory, or as an image."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Final
from uuid import UUID, uuid4

from wrenn.base.errors import Unavailable
from wrenn.base.faults import fault_point
from wrenn.base.ids import ImageId, SnapshotId
from wrenn.control.audit import Actor
from wrenn.control.builds import store
from wrenn.control.builds.bases import ImportedImage
from wrenn.control.builds.layer_store import LAYER_AGE_S
from wrenn.control.builds.log_writer import LogWriter
from wrenn.control.builds.make_image import make_image
from wrenn.control.builds.recipes import BuildPlan
from wrenn.control.builds.records import Build, BuildStatus, access_lost
from wrenn.control.builds.steps import BuildSandbox
from wrenn.control.db import Database, Transaction
from wrenn.control.hosts import HostImage
from wrenn.control.identity import lock_active_team, may_write
from wrenn.control.images import Images
from wrenn.control.quotas import Limits
from wrenn.control.sandboxes import InternalSandboxes, snapshot_source_of
from wrenn.control.snapshots import NewVersion, SnapshotLifecycle
from wrenn.control.templates import (
    Defaults,
    NewBase,
    Template,
    find_built_template,
    insert_base_template,
    lock_names,
    record_tags,
    require_any_space,
    set_tags,
    version_count,
)
from wrenn.recipe import State

_BEGIN_RETRY_S: Final = 8.0
"""The store's garbage collection may have the lock for up to half a minute."""


@dataclass(frozen=True, slots=True)
class BuildResults:
    """Keeps results. A build is recorded as a success in the transaction that makes its template. `owner` names the replica's leases."""

    database: Database
    sandboxes: InternalSandboxes
    snapshots: SnapshotLifecycle
    images: Images
    owner: str
    limits: Limits

    async def has(self, build: Build, plan: BuildPlan, build_key: str) -> bool:
        """Whether an earlier build of the team made what this one would come to."""
        found = await self.database.transaction(lambda tx: _find(tx, build, plan, build_key))
        return found is not None

    async def reuse(self, build: Build, plan: BuildPlan, build_key: str, log: LogWriter, by: Actor) -> None:
        """Let the build end with what an earlier one made, after `has`.

        With memory that is a version of the same name, which gets the tags; otherwise a new version has the same image.

        Raises:
            Unavailable: it was removed since. QuotaExceeded.
        """

        async def publish(tx: Transaction) -> list[UUID]:
            await lock_active_team(tx, build.team_id)
            await lock_names(tx)
            earlier = await _find(tx, build, plan, build_key)
            if earlier is None:
                raise Unavailable("The template with the same content was removed since.")
            if plan.keeps_memory:
                template_id = earlier.template_id
                dropped = await set_tags(tx, build.owner, build.name, build.tags, template_id)
                await record_tags(tx, build.owner, build.name, build.tags, template_id, by=by)
            else:
                assert earlier.image_id is not None, "builds keep images in the store"
                new = replace(
                    _new_base(build, plan, earlier.image_id, build_key),
                    disk_size_mb=earlier.disk_size_mb,
                    size_bytes=earlier.size_bytes,
                    built_at=earlier.built_at,
                )
                template_id = new.template_id
                dropped = await insert_base_template(tx, new, tags=build.tags, by=by, defaults=self.limits)
            await self._finish(tx, build, template_id, by)
            return dropped

        # Readers stop at the build's end, which is recorded now.
        await log.flush()
        for old in await self.database.transaction(publish):
            await self.snapshots.drop(SnapshotId(old))

    async def keep_snapshot(
        self,
        build: Build,
        plan: BuildPlan,
        build_key: str | None,
        sandbox: BuildSandbox,
        by: Actor,
        *,
        built_at: datetime | None,
    ) -> None:
        """Wait until the sandbox is ready, and keep it with memory and processes.

        `build_key` and `built_at` (when the oldest of its content was made; None: now) are for `reuse`.

        Raises:
            StepFailed: it did not become ready. WrennError: nothing was kept.
        """
        if plan.ready_check is not None:
            recipe = plan.recipe
            state = State(environment=recipe.environment, user=recipe.user or "root", workdir=recipe.workdir)
            await sandbox.wait_ready(plan.ready_check, state)
        row, host = await self.sandboxes.get(sandbox.sandbox_id)
        source = snapshot_source_of(row, host.endpoint)
        version = NewVersion(
            build.owner,
            build.name,
            build.tags,
            _defaults(plan),
            dict(plan.recipe.labels),
            build.build_id,
            build_key,
            built_at,
        )
        # Hidden until it is whole: two builds of one name may come to this at once.
        snapshot_id = await self.snapshots.begin(source)
        with self.snapshots.renewing_lease(snapshot_id):
            try:
                taken = await self.snapshots.take(source, snapshot_id)
                await fault_point("control.build.after_take")

                async def publish(tx: Transaction) -> list[SnapshotId]:
                    await lock_active_team(tx, build.team_id)
                    replaced = await self.snapshots.publish_as(tx, snapshot_id, taken, version, by=by)
                    await self._finish(tx, build, snapshot_id.value, by)
                    return replaced

                # Readers stop at the build's end, which is recorded now.
                await sandbox.log.flush()
                replaced = await self.database.transaction(publish)
            except BaseException:
                await asyncio.shield(self.snapshots.take_back(snapshot_id))
                raise
        for old in replaced:
            await self.snapshots.drop(old)

    async def keep_image(
        self,
        build: Build,
        plan: BuildPlan,
        build_key: str | None,
        sandbox: BuildSandbox,
        by: Actor,
        *,
        built_at: datetime | None,
    ) -> None:
        """Keep the disk of the sandbox as an image in the store; the sandbox is paused after this.

        `build_key` and `built_at` are as for `keep_snapshot`.

        Raises:
            WrennError: nothing was kept.
        """
        await sandbox.settle()
        row, host = await self.sandboxes.get(sandbox.sandbox_id)
        await self.sandboxes.pause(sandbox.sandbox_id, by)
        await fault_point("control.build.after_pause")
        await self._require_space(build)
        image_id = await self.images.begin_alone(build.owner, row.host_id, retry_s=_BEGIN_RETRY_S)
        with self.images.renewing_lease(image_id):
            try:
                made = await make_image(host, image_id, sandbox.sandbox_id, upload=True)
                new = replace(_new_base(build, plan, image_id, build_key), built_at=built_at)
                await self._publish(build, new, made, sandbox.log, by)
            except BaseException:
                await asyncio.shield(self.images.give_up(image_id))
                raise

    async def keep_imported(
        self,
        build: Build,
        plan: BuildPlan,
        imported: ImportedImage,
        log: LogWriter,
        by: Actor,
        *,
        build_key: str | None,
    ) -> None:
        """Keep the image that a host has made of a container image, as no step changes it. Its lease is the caller's.

        `build_key` is as for `keep_snapshot`.

        Raises:
            WrennError: nothing was kept.
        """
        await self._require_space(build)
        await self.images.begin_upload(imported.image_id, imported.host_id, retry_s=_BEGIN_RETRY_S)
        made = await make_image(imported.host, imported.image_id, imported.made_by, upload=True)
        await self._publish(build, _new_base(build, plan, imported.image_id, build_key), made, log, by)

    async def _require_space(self, build: Build) -> None:
        """Bring nothing into the store for a team that has no room left; how much an image takes is known when it is there."""
        owner = build.owner
        if owner is None:
            return

        async def require(tx: Transaction) -> None:
            is_new = not await version_count(tx, owner, build.name)
            await require_any_space(tx, owner, self.limits, new_templates=int(is_new))

        await self.database.transaction(require)

    async def _publish(self, build: Build, new: NewBase, made: HostImage, log: LogWriter, by: Actor) -> None:
        """Publish an image that is in the store, as a version of the template."""
        await fault_point("control.build.after_upload")

        async def publish(tx: Transaction) -> list[UUID]:
            await lock_active_team(tx, build.team_id)
            size_b = await self.images.publish(tx, new.image_id, disk_size_mb=made.disk_size_mb)
            whole = replace(new, disk_size_mb=made.disk_size_mb, size_bytes=size_b)
            replaced = await insert_base_template(tx, whole, tags=build.tags, by=by, defaults=self.limits)
            await self._finish(tx, build, new.template_id, by)
            return replaced

        # Readers stop at the build's end, which is recorded now.
        await log.flush()
        for old in await self.database.transaction(publish):
            await self.snapshots.drop(SnapshotId(old))

    async def _finish(self, tx: Transaction, build: Build, template_id: UUID, by: Actor) -> None:
        # The worker sees it too, but up to a second later.
        if build.holder is not None and not await may_write(tx, build.team_id, build.holder):
            raise access_lost()
        if not await store.finish(
            tx, build, BuildStatus.SUCCESS, owner=self.owner, by=by, template_id=template_id
        ):
            raise lease_lost()
        await fault_point("control.build.finished")


async def _find(tx: Transaction, build: Build, plan: BuildPlan, build_key: str) -> Template | None:
    name = build.name if plan.keeps_memory else None
    return await find_built_template(tx, build.owner, build_key, age_s=LAYER_AGE_S, name=name)


def _new_base(build: Build, plan: BuildPlan, image_id: ImageId, build_key: str | None) -> NewBase:
    """Return the template of an image whose size is still to be said."""
    return NewBase(
        template_id=uuid4(),
        team_id=build.owner,
        name=build.name,
        image_id=image_id,
        vcpus=build.vcpus,
        memory_mb=build.memory_mb,
        disk_size_mb=build.disk_size_mb,
        size_bytes=0,
        defaults=_defaults(plan),
        labels=dict(plan.recipe.labels),
        build_id=build.build_id,
        build_key=build_key,
    )


def _defaults(plan: BuildPlan) -> Defaults:
    recipe = plan.recipe
    workdir = "" if recipe.workdir == "/" else recipe.workdir
    return Defaults(recipe.user or "", workdir, recipe.environment)


def lease_lost() -> Unavailable:
    """Build the error for a build that another worker has taken over."""
    return Unavailable("The build was taken over by another worker.")
