"""Runs one build from its bases to its template. Each step with an undo has it on the next line."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from io import BytesIO
from typing import Any, Final
from uuid import UUID

from wrenn.base.errors import Conflict, StorageFull, WrennError
from wrenn.base.faults import fault_point
from wrenn.base.ids import SandboxId
from wrenn.control.audit import SYSTEM, Actor, ActorKind
from wrenn.control.builds import layer_store, recipes, store
from wrenn.control.builds.attempt import Attempt, Begun, Planned, Stage, copied_in
from wrenn.control.builds.bases import Base, BuildBases, ImportedImage
from wrenn.control.builds.keys import BuildKeys, Shape, steps_to_keep
from wrenn.control.builds.layer_store import Layer
from wrenn.control.builds.layers import LayerCache
from wrenn.control.builds.log_writer import LogWriter
from wrenn.control.builds.records import Build, Phase
from wrenn.control.builds.results import BuildResults, lease_lost
from wrenn.control.builds.scratch import ScratchSpace
from wrenn.control.builds.stage_copy import Place
from wrenn.control.builds.steps import DEFAULT_ENVIRONMENT, BuildSandbox, StepFailed
from wrenn.control.db import Database
from wrenn.control.identity import owning_user_of
from wrenn.control.objects import ObjectStore
from wrenn.control.sandboxes import CreateSandbox, InternalSandboxes
from wrenn.control.templates import Template
from wrenn.protocol.image_manifest import ARCHIVE_LIMIT_B
from wrenn.recipe import Copy, Recipe, Step
from wrenn.recipe.archive import ContextArchive
from wrenn.recipe.cache_key import changes_disk

LIFETIME_S: Final = 6 * 3600
"""Of the sandbox of a build, and so of the build: it ends by itself if nobody removes it."""
CAUSE: Final = "build_ended"
"""Why the sandbox of a build is removed."""
_WORTH_S: Final = 1.0
"""A layer is kept when the steps since the last one took so long together, and after the last step that may be cached."""
_OPENED_AT_ONCE: Final = 2
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
    scratch: ScratchSpace
    owner: str
    opening: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(_OPENED_AT_ONCE))

    async def run(self, build: Build, log: LogWriter) -> None:
        """Run the build to its end and record its success.

        Raises:
            StepFailed, InvalidRequest: it failed for a reason of its recipe. WrennError: for another one.
        """
        by = _actor_of(build)
        await self._remove_former(build, by)
        recipe = await asyncio.to_thread(recipes.parse, build.request)
        for note in recipe.notes:
            log.note(str(note))
        async with AsyncExitStack() as stack:
            stages = await self._opened_stages(build, recipe, stack)
            context = await stack.enter_async_context(self._context(build, recipe))
            attempt = Attempt(build, stages, context, log, by)
            imported = _unchanged(build, stages)
            for stage in stages:
                # Where nothing runs, it does not matter which variables programs would have.
                environment = (
                    DEFAULT_ENVIRONMENT
                    if imported is not None
                    else await self.layers.environment_of(build, stage.base.key)
                )
                if environment is not None:
                    await attempt.plan(stage, environment)
            if await self._reused(attempt):
                return
            if imported is not None:
                known = attempt.result.planned
                assert known is not None, "its variables are known"
                build_key = known.keys.template
                await self.results.keep_imported(build, known.plan, imported, log, by, build_key=build_key)
                return
            for stage in stages:
                await stack.enter_async_context(stage.running)
            await self._build(attempt)

    async def _remove_former(self, build: Build, by: Actor) -> None:
        """Remove the sandboxes of an attempt whose replica died."""
        of_builds = await self.sandboxes.of_builds()
        former = {sandbox_id for sandbox_id, build_id in of_builds if build_id == build.build_id}
        if build.sandbox_id is not None:
            former.add(build.sandbox_id)
        for sandbox_id in former:
            await self.sandboxes.begin_removal(sandbox_id, by, cause=CAUSE)

    async def _opened_stages(self, build: Build, recipe: Recipe, stack: AsyncExitStack) -> list[Stage]:
        counts = recipes.count_steps(build.request, recipe)
        named = [*((stage.name, stage.recipe) for stage in recipe.stages), ("", recipe)]
        bases: dict[str, Base] = {}
        stages: list[Stage] = []
        for number, (name, of_stage) in enumerate(named):
            said = recipes.base_of(build.request, of_stage)
            if str(said) not in bases:
                bases[str(said)] = await stack.enter_async_context(self.bases.opened(build, said))
            base = bases[str(said)]
            stage = Stage(number, name, of_stage, base, _shape(build, base.template), sum(counts[:number]))
            stages.append(stage)
            for copied in of_stage.copied_stages:
                stages[copied].copied_by.add(number)
        return stages

    async def _reused(self, attempt: Attempt) -> bool:
        """End the build with what an earlier one made, if that would be the same."""
        build, known = attempt.build, attempt.result.planned
        if known is None or known.keys.template is None:
            return False
        if not await self.results.has(build, known.plan, known.keys.template):
            return False
        attempt.log_cached(attempt.result)
        await self._set_step(build, attempt.result.first_step + len(known.plan.steps))
        await self.results.reuse(build, known.plan, known.keys.template, attempt.log, attempt.by)
        return True

    async def _build(self, attempt: Attempt) -> None:
        sandbox = await self._ran(attempt, attempt.result)
        await fault_point("control.build.after_steps")
        known = attempt.result.planned
        assert known is not None, "it was carried out"
        keep = self.results.keep_snapshot if known.plan.keeps_memory else self.results.keep_image
        made_at = attempt.result.made_at
        await keep(attempt.build, known.plan, known.keys.template, sandbox, attempt.by, built_at=made_at)

    async def _ran(self, attempt: Attempt, stage: Stage) -> BuildSandbox:
        """Carry out a stage, and before it the ones that it needs; returns its sandbox, which runs as long as `stage.running`."""
        build, copied = attempt.build, stage.recipe.copied_stages
        known = stage.planned
        if copied and (known is None or known.keys.disk is None):
            # What it comes to is known when the stages are of which it copies.
            await self._run_stages(attempt, copied)
            environment = await self.layers.environment_of(build, stage.base.key)
            known = None if environment is None else await attempt.plan(stage, environment)
        found = [] if known is None else await self.layers.find(build, known.keys, stage.shape)
        if known is not None:
            left = known.plan.steps[found[0][0] if found else 0 :]
            await self._run_stages(attempt, copied_in(step for _, step in left))
        begun = await self._begun(attempt, stage, found)
        stage.include(None if begun.origin is None else begun.origin.created_at)
        if len(attempt.stages) == 1:
            # Its sandbox keeps the files of the base. Other stages may begin with the same one.
            await stage.base.release()
        built = stage.base.built_by_hosts
        is_known_disk = begun.origin is not None or built is None
        if built is not None and not is_known_disk:
            _, host = await self.sandboxes.get(begun.sandbox.sandbox_id)
            # After its start: what the host had before is what it has now, or nothing is kept.
            is_known_disk = await built.is_on(host)
        if known is None:
            environment = await begun.sandbox.environment()
            known = await attempt.plan(stage, DEFAULT_ENVIRONMENT if environment is None else environment)
            if environment is not None and is_known_disk:
                await self.layers.remember_environment(build.team_id, stage.base.key, environment)
        if not is_known_disk:
            # The hosts differ, as during an upgrade: what it comes to is not what these keys stand for.
            known = stage.planned = replace(known, keys=BuildKeys())
        attempt.log_cached(stage, begun.steps)
        await self._carry_out(attempt, stage, known, begun)
        for number in copied:
            await self._end_use(attempt.stages[number], stage)
        return begun.sandbox

    async def _run_stages(self, attempt: Attempt, numbers: set[int]) -> None:
        for number in sorted(numbers):
            await self._place_of(attempt, number)

    async def _place_of(self, attempt: Attempt, number: int) -> Place:
        """Return where the files of a stage are; it is carried out if it does not run."""
        stage = attempt.stages[number]
        if stage.sandbox is None:
            stage.sandbox = await self._ran(attempt, stage)
            await fault_point("control.build.stage_ran")
        return stage.sandbox.place

    @staticmethod
    async def _end_use(stage: Stage, by: Stage) -> None:
        """Record that a stage copies no more files of another, which is removed when nobody is left who does."""
        stage.copied_by.discard(by.number)
        if not stage.copied_by and stage.sandbox is not None:
            stage.sandbox = None
            await stage.running.aclose()

    async def _begun(self, attempt: Attempt, stage: Stage, found: list[tuple[int, Layer]]) -> Begun:
        """Make the sandbox of the layer with the most steps that can be used, otherwise of the base."""
        for steps, layer in found:
            try:
                template = stage.base.of_layer(layer, stage.shape)
                sandbox = await self._sandbox(attempt, stage, template, layer)
            except _LayerGone:
                continue
            except WrennError as error:
                await self.layers.not_usable(layer, error)
                continue
            return Begun(sandbox, steps, layer)
        return Begun(await self._sandbox(attempt, stage, stage.base.template), 0, None)

    async def _sandbox(
        self, attempt: Attempt, stage: Stage, template: Template, layer: Layer | None = None
    ) -> BuildSandbox:
        async with AsyncExitStack() as making:
            sandbox_id = await making.enter_async_context(
                self._running_sandbox(attempt.build, attempt.by, stage.shape, template, layer)
            )
            _, host = await self.sandboxes.get(sandbox_id)
            # From here on it is removed with its stage.
            stage.running.push_async_exit(making.pop_all())
        return BuildSandbox(sandbox_id, host, attempt.context, attempt.log, partial(self._place_of, attempt))

    @asynccontextmanager
    async def _running_sandbox(
        self, build: Build, by: Actor, shape: Shape, template: Template, layer: Layer | None
    ) -> AsyncGenerator[SandboxId]:
        sandbox_id = SandboxId.new()
        # Recorded first, so that the next attempt removes it, whenever this replica dies.
        await self._record(build, sandbox_id, layer)
        # A snapshot has the one size in which it was taken.
        size: dict[str, Any] = {}
        if template.snapshot_id is None:
            size = asdict(shape)
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
    async def _context(self, build: Build, recipe: Recipe) -> AsyncGenerator[ContextArchive]:
        base = recipes.base_of(build.request, recipe)
        if build.archive_key is None or recipes.is_from_archive(base):
            context = ContextArchive.empty()
        else:
            context = await self._opened(
                build.archive_key, await owning_user_of(self.database, build.team_id)
            )
        try:
            yield context
        finally:
            context.close()

    async def _opened(self, archive_key: str, owner: UUID) -> ContextArchive:
        try:
            # Few at once: until it is unpacked, the archive is in memory.
            async with self.opening:
                data = await self.objects.get(archive_key, limit_b=ARCHIVE_LIMIT_B)
                new_scratch = partial(self.scratch.new, owner)
                return await asyncio.to_thread(
                    partial(ContextArchive.open, BytesIO(data), new_scratch=new_scratch)
                )
        except OSError as error:
            raise StorageFull("The control plane has no room to unpack the archive.") from error

    async def _carry_out(self, attempt: Attempt, stage: Stage, known: Planned, begun: Begun) -> None:
        steps, layers = known.plan.steps, known.keys.layers
        numbers = steps_to_keep(known.plan, known.keys)
        last_copy = max(
            (number for number, (_, step) in enumerate(steps, start=1) if isinstance(step, Copy)), default=0
        )
        # Its temporary files are not held while programs run for hours.
        if stage is attempt.result and begun.steps >= last_copy:
            attempt.context.close()
        saving = _Saving()
        for number, (phase, step) in enumerate(steps[begun.steps :], start=begun.steps + 1):
            in_build = stage.first_step + number
            await self._set_step(attempt.build, in_build)
            attempt.log.begin(in_build, phase=phase, command=stage.shown(step))
            took_s = await _carry_out_one(number, phase, step, begun.sandbox)
            if stage is attempt.result and number == last_copy:
                attempt.context.close()
            saving.add(step, took_s)
            for copied in copied_in([step]):
                stage.include(attempt.stages[copied].made_at)
            if number in numbers and saving.is_due(is_last=number == numbers[-1]):
                await self.layers.keep(
                    attempt.build,
                    begun.sandbox,
                    layers[number - 1],
                    stage.shape,
                    begun.origin,
                    made_at=stage.made_at,
                )

    async def _set_step(self, build: Build, step: int) -> None:
        if not await store.set_step(self.database, build, step, owner=self.owner):
            raise lease_lost()


async def _carry_out_one(number: int, phase: Phase, step: Step, sandbox: BuildSandbox) -> float:
    """Carry out one step, whose begin is logged; returns how long that took, in seconds."""
    log = sandbox.log
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


class _LayerGone(Conflict):
    """The layer was removed since it was found."""


def _unchanged(build: Build, stages: Sequence[Stage]) -> ImportedImage | None:
    """Return the image of a container image that is the result as it is, as the recipe has nothing but its FROM."""
    (*earlier, result) = stages
    has_steps = earlier or result.recipe.statements or not build.request.skip_pre_post
    return None if has_steps or build.request.healthcheck else result.base.imported


def _shape(build: Build, base: Template) -> Shape:
    if base.snapshot_id is not None:
        return Shape(base.vcpus, base.memory_mb, base.disk_size_mb)
    return Shape(build.vcpus, build.memory_mb, max(build.disk_size_mb, base.disk_size_mb))


def _actor_of(build: Build) -> Actor:
    by = build.created_by
    return SYSTEM if by is None else Actor(ActorKind(by["type"]), by["id"], by["name"])


def _since(begun_s: float) -> int:
    return round((time.monotonic() - begun_s) * 1000)
