"""Keys of a build: of the disk after each step, and of the template at the end."""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass

from wrenn.base.errors import InvalidRequest
from wrenn.control.builds.recipes import BuildPlan
from wrenn.control.builds.records import Phase
from wrenn.recipe import Copy, Start, Step
from wrenn.recipe.archive import ContextArchive
from wrenn.recipe.cache_key import cacheable_steps, changes_disk, step_key


@dataclass(frozen=True, slots=True)
class Shape:
    """The size of a build's sandbox."""

    vcpus: int
    memory_mb: int
    disk_size_mb: int


@dataclass(frozen=True, slots=True)
class BuildKeys:
    """Keys of a build.

    Attributes:
        layers: of the disk after each of the first steps, as far as they may be taken from the cache.
        template: of the template; None: a step copies files that the context does not have, so there will be none.
        disk: of the disk after the last step; None as for `template`.
    """

    layers: tuple[str, ...] = ()
    template: str | None = None
    disk: str | None = None


async def keys_of(
    base_key: str,
    shape: Shape,
    plan: BuildPlan,
    context: ContextArchive,
    stage_disks: Sequence[str | None] = (),
) -> BuildKeys:
    """Compute the keys of a build, or of one stage of it, on the base with this key.

    `stage_disks`: the keys of the disks of the stages of which steps copy files; None of one that has no key.
    """
    steps = [step for _, step in plan.steps]
    keys: list[str] = []
    key = base_key
    for step in steps:
        # The variables of a step may be long.
        await asyncio.sleep(0)
        try:
            digest = await _files_digest(step, context, stage_disks)
        except InvalidRequest:
            # The step itself says so when it is its turn.
            return BuildKeys(tuple(keys[: cacheable_steps(steps)]))
        key = step_key(key, step, files_digest=digest)
        keys.append(key)
    return BuildKeys(tuple(keys[: cacheable_steps(steps)]), _template_key(key, shape, plan), key)


def steps_to_keep(plan: BuildPlan, keys: BuildKeys) -> list[int]:
    """Return the numbers of the steps after which a layer may be kept, in order.

    None is kept of the steps before the recipe alone, nor before a step of the recipe has changed the disk: they update lists
    of packages, which would be old in builds that begin from there.
    """
    phases = [phase for phase, _ in plan.steps]
    before = {key for phase, key in zip(phases, keys.layers, strict=False) if phase is Phase.PRE_BUILD}
    return [number for number, key in enumerate(keys.layers, start=1) if key not in before]


async def _files_digest(step: Step, context: ContextArchive, stage_disks: Sequence[str | None]) -> str | None:
    if not isinstance(step, Copy) or not step.sources:
        return None
    if step.stage is not None:
        disk = stage_disks[step.stage]
        if disk is None:
            raise InvalidRequest("The stage has no key.")
        text = json.dumps(["stage", disk, *step.sources], separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()
    return (await asyncio.to_thread(context.select, step)).digest


def _template_key(disk_key: str, shape: Shape, plan: BuildPlan) -> str:
    """Return what identifies the template. Of an image it is the disk and the size of the sandbox in which steps made it."""
    fields: dict[str, object] = {"disk": disk_key, **asdict(shape)}
    if plan.keeps_memory:
        recipe, check = plan.recipe, plan.ready_check
        started = [
            # How many steps that change the disk come before it.
            [sum(changes_disk(earlier) for _, earlier in plan.steps[:index]), step.argv, *_state(step)]
            for index, (_, step) in enumerate(plan.steps)
            if isinstance(step, Start)
        ]
        fields |= {
            "started": started,
            "ready": None if check is None else [check.argv, check.start_period_s, check.interval_s],
            "environment": dict(recipe.environment),
            "user": recipe.user,
            "workdir": recipe.workdir,
            "labels": dict(recipe.labels),
        }
    text = json.dumps(fields, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def _state(step: Step) -> list[object]:
    return [dict(step.state.environment), step.state.user, step.state.workdir]
