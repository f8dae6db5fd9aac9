"""Runs one build from its base to its template. Each step with an undo has it on the next line."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from io import BytesIO
from typing import Any, Final

from wrenn.base.errors import StorageFull
from wrenn.base.faults import fault_point
from wrenn.base.ids import SandboxId
from wrenn.control.audit import SYSTEM, Actor, ActorKind
from wrenn.control.builds import recipes, store
from wrenn.control.builds.bases import BuildBases
from wrenn.control.builds.log_writer import LogWriter
from wrenn.control.builds.recipes import BuildPlan
from wrenn.control.builds.records import Build, Phase
from wrenn.control.builds.results import BuildResults, lease_lost
from wrenn.control.builds.service import ARCHIVE_LIMIT_B
from wrenn.control.builds.steps import BuildSandbox, StepFailed
from wrenn.control.db import Database
from wrenn.control.objects import ObjectStore
from wrenn.control.sandboxes import CreateSandbox, InternalSandboxes
from wrenn.control.templates import Template
from wrenn.recipe.archive import ContextArchive

LIFETIME_S: Final = 6 * 3600
"""Of the sandbox of a build, and so of the build: it ends by itself if nobody removes it."""
_CAUSE: Final = "build_ended"


@dataclass(frozen=True, slots=True)
class BuildRunner:
    """What builds need to run. `owner` names the replica's leases."""

    database: Database
    objects: ObjectStore
    sandboxes: InternalSandboxes
    bases: BuildBases
    results: BuildResults
    owner: str

    async def run(self, build: Build, log: LogWriter) -> None:
        """Run the build to its end and record its success.

        Raises:
            StepFailed, InvalidRequest: it failed for a reason of its recipe. WrennError: for another one.
        """
        by = _actor_of(build)
        if build.sandbox_id is not None:
            # That of an attempt whose replica died.
            await self.sandboxes.begin_removal(build.sandbox_id, by, cause=_CAUSE)
        recipe = recipes.parse(build.request)
        async with (
            self.bases.opened(build, recipes.base_of(build.request, recipe)) as base,
            self._sandbox(build, base.template, by) as sandbox_id,
            self._context(build) as context,
        ):
            # Its sandbox keeps the files of the base.
            await base.release()
            _, host = await self.sandboxes.get(sandbox_id)
            sandbox = BuildSandbox(sandbox_id, host, context, log)
            environment = {**await sandbox.environment(), **base.config.environment}
            plan = recipes.plan(build.request, recipe, replace(base.config, environment=environment))
            for note in recipe.notes:
                log.note(str(note))
            await self._carry_out(build, plan, sandbox, log)
            await fault_point("control.build.after_steps")
            if plan.keeps_memory:
                await self.results.keep_snapshot(build, plan, sandbox, by)
            else:
                await self.results.keep_image(build, plan, sandbox, by)

    @asynccontextmanager
    async def _sandbox(self, build: Build, base: Template, by: Actor) -> AsyncGenerator[SandboxId]:
        sandbox_id = SandboxId.new()
        # Recorded first, so that the next attempt removes it, whenever this replica dies.
        if not await store.set_sandbox(self.database, build, sandbox_id, owner=self.owner):
            raise lease_lost()
        # A snapshot has the one size in which it was taken.
        size: dict[str, Any] = {}
        if base.snapshot_id is None:
            disk_size_mb = max(build.disk_size_mb, base.disk_size_mb)
            size = {"vcpus": build.vcpus, "memory_mb": build.memory_mb, "disk_size_mb": disk_size_mb}
        body = CreateSandbox(
            template=base.name,
            lifetime_sec=LIFETIME_S,
            on_expiry="kill",
            name=f"build of {build.name}",
            **size,
        )
        try:
            await self.sandboxes.create(build.team_id, by, body, sandbox_id=sandbox_id, template=base)
            await fault_point("control.build.after_create")
            yield sandbox_id
        finally:
            await asyncio.shield(self.sandboxes.begin_removal(sandbox_id, by, cause=_CAUSE))

    @asynccontextmanager
    async def _context(self, build: Build) -> AsyncGenerator[ContextArchive]:
        if build.archive_key is None:
            context = ContextArchive.empty()
        else:
            context = await self._opened(build.archive_key)
        try:
            yield context
        finally:
            context.close()

    async def _opened(self, archive_key: str) -> ContextArchive:
        data = await self.objects.get(archive_key, limit_b=ARCHIVE_LIMIT_B)
        try:
            return await asyncio.to_thread(ContextArchive.open, BytesIO(data))
        except OSError as error:
            raise StorageFull("The control plane has no room to unpack the archive.") from error

    async def _carry_out(self, build: Build, plan: BuildPlan, sandbox: BuildSandbox, log: LogWriter) -> None:
        for number, (phase, step) in enumerate(plan.steps, start=1):
            if not await store.set_step(self.database, build, number, owner=self.owner):
                raise lease_lost()
            log.begin(number, phase=phase, command=step.text)
            begun = time.monotonic()
            try:
                exit_code = await sandbox.carry_out(step)
            except StepFailed as error:
                log.end(ok=False, exit_code=error.exit_code, elapsed_ms=_since(begun))
                where = f"line {step.line}: " if phase is Phase.RECIPE else ""
                raise StepFailed(f"{where}{phase} step {number} failed: {error.message}") from error
            log.end(ok=True, exit_code=exit_code, elapsed_ms=_since(begun))


def _actor_of(build: Build) -> Actor:
    by = build.created_by
    return SYSTEM if by is None else Actor(ActorKind(by["type"]), by["id"], by["name"])


def _since(begun_s: float) -> int:
    return round((time.monotonic() - begun_s) * 1000)
