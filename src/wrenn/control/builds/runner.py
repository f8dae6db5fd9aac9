"""Runs one build from its base to its template. Each step with an undo has it on the next line."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import asdict, dataclass, replace
from io import BytesIO
from typing import Any, Final

from wrenn.base.errors import Conflict, StorageFull, WrennError
from wrenn.base.faults import fault_point
from wrenn.base.ids import SandboxId
from wrenn.control.audit import SYSTEM, Actor, ActorKind
from wrenn.control.builds import layer_store, recipes, store
from wrenn.control.builds.bases import Base, BuildBases
from wrenn.control.builds.keys import BuildKeys, Shape, keys_of, steps_to_keep
from wrenn.control.builds.layer_store import Layer
from wrenn.control.builds.layers import LayerCache
from wrenn.control.builds.log_writer import LogWriter
from wrenn.control.builds.recipes import BuildPlan
from wrenn.control.builds.records import Build, Phase
from wrenn.control.builds.results import BuildResults, lease_lost
from wrenn.control.builds.steps import DEFAULT_ENVIRONMENT, BuildSandbox, StepFailed
from wrenn.control.db import Database
from wrenn.control.objects import ObjectStore
from wrenn.control.sandboxes import CreateSandbox, InternalSandboxes
from wrenn.control.templates import Template
from wrenn.protocol.image_manifest import ARCHIVE_LIMIT_B
from wrenn.recipe import Recipe, Step
from wrenn.recipe.archive import ContextArchive
from wrenn.recipe.cache_key import changes_disk

LIFETIME_S: Final = 6 * 3600
"""Of the sandbox of a build, and so of the build: it ends by itself if nobody removes it."""
CAUSE: Final = "build_ended"
"""Why the sandbox of a build is removed."""
_WORTH_S: Final = 1.0
"""A layer is kept when the steps since the last one took so long together, and after the last step that may be cached."""
_LAYERS_OF_BUILD: Final = 16
"""A running sandbox can have only so many snapshots taken of it, and the template is one more."""


@dataclass(frozen=True, slots=True)
class BuildRunner:
    """What builds need to run. `owner` names the replica's leases."""

    database: Database
    objects: ObjectStore
    sandboxes: InternalSandboxes
    bases: BuildBases
    results: BuildResults
    layers: LayerCache
    owner: str

    async def run(self, build: Build, log: LogWriter) -> None:
        """Run the build to its end and record its success.

        Raises:
            StepFailed, InvalidRequest: it failed for a reason of its recipe. WrennError: for another one.
        """
        by = _actor_of(build)
        if build.sandbox_id is not None:
            # That of an attempt whose replica died.
            await self.sandboxes.begin_removal(build.sandbox_id, by, cause=CAUSE)
        recipe = recipes.parse(build.request)
        for note in recipe.notes:
            log.note(str(note))
        async with (
            self.bases.opened(build, recipes.base_of(build.request, recipe)) as base,
            self._context(build) as context,
        ):
            work = _Work(build, recipe, base, _shape(build, base.template), context, log, by)
            environment = await self.layers.environment_of(build, base.key)
            known = None if environment is None else await work.planned(environment)
            if known is not None and await self._reused(work, known):
                return
            await self._build(work, known)

    async def _reused(self, work: _Work, known: _Planned) -> bool:
        """End the build with what an earlier one made, if that would be the same."""
        template_key = known.keys.template
        if template_key is None or not await self.results.has(work.build, known.plan, template_key):
            return False
        _log_cached(work.log, known.plan, len(known.plan.steps))
        await self._set_step(work.build, len(known.plan.steps))
        await self.results.reuse(work.build, known.plan, template_key, work.log, work.by)
        return True

    async def _build(self, work: _Work, known: _Planned | None) -> None:
        build, base, log = work.build, work.base, work.log
        async with self._begun(work, known) as begun:
            # Its sandbox keeps the files of the base.
            await base.release()
            row, host = await self.sandboxes.get(begun.sandbox_id)
            is_known_disk = (
                begun.origin is not None
                or base.host_version is None
                or await layer_store.runs_version(self.database, row.host_id, base.host_version)
            )
            sandbox = BuildSandbox(begun.sandbox_id, host, work.context, log)
            if known is None:
                environment = await sandbox.environment()
                known = await work.planned(DEFAULT_ENVIRONMENT if environment is None else environment)
                if environment is not None and is_known_disk:
                    await self.layers.remember_environment(build.team_id, base.key, environment)
            if not is_known_disk:
                # During an upgrade of the hosts: what it comes to is not what these keys stand for.
                known = replace(known, keys=BuildKeys((), None))
            await self._carry_out(work, known, sandbox, begun)
            await fault_point("control.build.after_steps")
            plan, template_key = known.plan, known.keys.template
            keep = self.results.keep_snapshot if plan.keeps_memory else self.results.keep_image
            built_at = None if begun.origin is None else begun.origin.created_at
            await keep(build, plan, template_key, sandbox, work.by, built_at=built_at)

    @asynccontextmanager
    async def _begun(self, work: _Work, known: _Planned | None) -> AsyncGenerator[_Begun]:
        """Provide the sandbox: made from the layer with the most steps that can be used, otherwise from the base."""
        found = [] if known is None else await self.layers.find(work.build, known.keys, work.shape)
        async with AsyncExitStack() as stack:
            for steps, layer in found:
                try:
                    sandbox_id = await stack.enter_async_context(
                        self._sandbox(work, work.base.of_layer(layer, work.shape), layer)
                    )
                except _LayerGone:
                    continue
                except WrennError as error:
                    await self.layers.not_usable(layer, error)
                    continue
                yield _Begun(sandbox_id, steps, layer)
                return
            yield _Begun(await stack.enter_async_context(self._sandbox(work, work.base.template)))

    @asynccontextmanager
    async def _sandbox(
        self, work: _Work, template: Template, layer: Layer | None = None
    ) -> AsyncGenerator[SandboxId]:
        build, by = work.build, work.by
        sandbox_id = SandboxId.new()
        # Recorded first, so that the next attempt removes it, whenever this replica dies.
        await self._record(build, sandbox_id, layer)
        # A snapshot has the one size in which it was taken.
        size: dict[str, Any] = {}
        if template.snapshot_id is None:
            size = asdict(work.shape)
        body = CreateSandbox(
            template=template.name,
            lifetime_sec=LIFETIME_S,
            on_expiry="kill",
            name=f"build of {build.name}",
            **size,
        )
        try:
            await self.sandboxes.create(
                build.team_id, by, body, sandbox_id=sandbox_id, template=template, build_id=build.build_id
            )
            await fault_point("control.build.after_create")
            yield sandbox_id
        finally:
            await asyncio.shield(self.sandboxes.begin_removal(sandbox_id, by, cause=CAUSE))

    async def _record(self, build: Build, sandbox_id: SandboxId, layer: Layer | None) -> None:
        if layer is None:
            if not await store.set_sandbox(self.database, build, sandbox_id, owner=self.owner):
                raise lease_lost()
            return
        claimed = await layer_store.claim(self.database, build, sandbox_id, layer, owner=self.owner)
        if claimed is None:
            raise lease_lost()
        if not claimed:
            raise _LayerGone("The layer was removed.")
        await fault_point("control.build.layer_claimed")

    @asynccontextmanager
    async def _context(self, build: Build) -> AsyncGenerator[ContextArchive]:
        if build.archive_key is None or recipes.is_from_archive(build.request):
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

    async def _carry_out(self, work: _Work, known: _Planned, sandbox: BuildSandbox, begun: _Begun) -> None:
        steps, layers = known.plan.steps, known.keys.layers
        numbers = steps_to_keep(known.plan, known.keys)
        saving = _Saving()
        _log_cached(work.log, known.plan, begun.steps)
        for number, (phase, step) in enumerate(steps[begun.steps :], start=begun.steps + 1):
            await self._set_step(work.build, number)
            took_s = await _carry_out_one(number, phase, step, sandbox)
            saving.add(step, took_s)
            if number in numbers and saving.is_due(is_last=number == numbers[-1]):
                await self.layers.keep(work.build, sandbox, layers[number - 1], work.shape, begun.origin)

    async def _set_step(self, build: Build, step: int) -> None:
        if not await store.set_step(self.database, build, step, owner=self.owner):
            raise lease_lost()


async def _carry_out_one(number: int, phase: Phase, step: Step, sandbox: BuildSandbox) -> float:
    """Carry out one step; returns how long that took, in seconds."""
    log = sandbox.log
    log.begin(number, phase=phase, command=step.text)
    begun = time.monotonic()
    try:
        exit_code = await sandbox.carry_out(step)
    except StepFailed as error:
        log.end(ok=False, exit_code=error.exit_code, elapsed_ms=_since(begun))
        where = f"line {step.line}: " if phase is Phase.RECIPE else ""
        raise StepFailed(f"{where}{phase} step {number} failed: {error.message}") from error
    log.end(ok=True, exit_code=exit_code, elapsed_ms=_since(begun))
    return time.monotonic() - begun


@dataclass
class _Saving:
    """Decides after which steps a layer is worth its time and space."""

    since_s: float = 0.0
    """What the steps took since the last layer."""
    is_changed: bool = False
    layers: int = 0

    def add(self, step: Step, took_s: float) -> None:
        """Count a step that was carried out."""
        self.since_s += took_s
        self.is_changed |= changes_disk(step)

    def is_due(self, *, is_last: bool) -> bool:
        """Whether a layer is to be kept now, which the caller does."""
        most = _LAYERS_OF_BUILD if is_last else _LAYERS_OF_BUILD - 1
        if not self.is_changed or self.layers >= most or not (is_last or self.since_s >= _WORTH_S):
            return False
        self.since_s, self.is_changed, self.layers = 0.0, False, self.layers + 1
        return True


@dataclass(frozen=True, slots=True)
class _Planned:
    """What a build carries out, with its keys."""

    plan: BuildPlan
    keys: BuildKeys


@dataclass(frozen=True, slots=True)
class _Work:
    """One attempt of a build."""

    build: Build
    recipe: Recipe
    base: Base
    shape: Shape
    context: ContextArchive
    log: LogWriter
    by: Actor

    async def planned(self, environment: Mapping[str, str]) -> _Planned:
        """Return what is carried out in sandboxes whose programs have these variables."""
        config = self.base.config
        config = replace(config, environment={**environment, **config.environment})
        plan = recipes.plan(self.build.request, self.recipe, config)
        return _Planned(plan, await keys_of(self.base.key, self.shape, plan, self.context))


@dataclass(frozen=True, slots=True)
class _Begun:
    """The sandbox of a build.

    Attributes:
        steps: that it contains already.
        origin: the layer that it was made from; None: the base.
    """

    sandbox_id: SandboxId
    steps: int = 0
    origin: Layer | None = None


class _LayerGone(Conflict):
    """The layer was removed since it was found."""


def _shape(build: Build, base: Template) -> Shape:
    if base.snapshot_id is not None:
        return Shape(base.vcpus, base.memory_mb, base.disk_size_mb)
    return Shape(build.vcpus, build.memory_mb, max(build.disk_size_mb, base.disk_size_mb))


def _log_cached(log: LogWriter, plan: BuildPlan, steps: int) -> None:
    for number, (phase, step) in enumerate(plan.steps[:steps], start=1):
        log.begin(number, phase=phase, command=step.text)
        log.end(ok=True, exit_code=None, elapsed_ms=0, cached=True)


def _actor_of(build: Build) -> Actor:
    by = build.created_by
    return SYSTEM if by is None else Actor(ActorKind(by["type"]), by["id"], by["name"])


def _since(begun_s: float) -> int:
    return round((time.monotonic() - begun_s) * 1000)
