"""One attempt of a build: its stages, with what is known of each and what runs of it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass, field, replace
from datetime import datetime

from wrenn.control.audit import Actor
from wrenn.control.builds import recipes
from wrenn.control.builds.bases import Base
from wrenn.control.builds.keys import BuildKeys, Shape, keys_of
from wrenn.control.builds.layer_store import Layer
from wrenn.control.builds.log_writer import LogWriter
from wrenn.control.builds.recipes import BuildPlan
from wrenn.control.builds.records import Build
from wrenn.control.builds.steps import BuildSandbox
from wrenn.recipe import Copy, Recipe, Step
from wrenn.recipe.archive import ContextArchive


@dataclass(frozen=True, slots=True)
class Planned:
    """What a stage carries out, with its keys."""

    plan: BuildPlan
    keys: BuildKeys


@dataclass(slots=True)
class Stage:
    """A stage of a build. The last one is the result, and the only one of most builds.

    Attributes:
        number: its place in `Attempt.stages`, by which steps refer to it.
        name: empty for the result.
        first_step: how many steps the stages before it have, which count in the build's log.
        planned: None until the variables of programs in its base are known.
        copied_by: stages that are still to copy files of it.
        sandbox: after its last step, while it is needed.
        running: removes that sandbox.
        made_at: when the oldest layer was made whose content it has; None: all of it is new.
        is_logged: its steps are in the log.
    """

    number: int
    name: str
    recipe: Recipe
    base: Base
    shape: Shape
    first_step: int
    planned: Planned | None = None
    copied_by: set[int] = field(default_factory=set[int])
    sandbox: BuildSandbox | None = None
    running: AsyncExitStack = field(default_factory=AsyncExitStack)
    made_at: datetime | None = None
    is_logged: bool = False

    def include(self, made_at: datetime | None) -> None:
        """Record that it has content which was made then."""
        if made_at is not None:
            self.made_at = made_at if self.made_at is None else min(self.made_at, made_at)

    def shown(self, step: Step) -> str:
        """Return the step as the log has it."""
        return f"[{self.name}] {step.text}" if self.name else step.text

    @property
    def copied(self) -> set[int]:
        """The stages of which it copies files."""
        return self.recipe.copied_stages


@dataclass(frozen=True, slots=True)
class Attempt:
    """One attempt of a build."""

    build: Build
    stages: list[Stage]
    context: ContextArchive
    log: LogWriter
    by: Actor

    @property
    def result(self) -> Stage:
        """The stage that becomes the template."""
        return self.stages[-1]

    async def plan(self, stage: Stage, environment: Mapping[str, str]) -> Planned:
        """Plan what is carried out in sandboxes of the stage's base, whose programs have these variables."""
        config = stage.base.config
        config = replace(config, environment={**environment, **config.environment})
        if stage is self.result:
            plan = recipes.plan(self.build.request, stage.recipe, config)
        else:
            plan = recipes.plan_stage(stage.recipe, config)
        disks = [None if each.planned is None else each.planned.keys.disk for each in self.stages]
        stage.planned = Planned(plan, await keys_of(stage.base.key, stage.shape, plan, self.context, disks))
        return stage.planned

    def log_cached(self, stage: Stage, steps: int | None = None) -> None:
        """Log the first steps of a stage, or all of them, as taken from the cache, and before them those of the stages in them."""
        stage.is_logged = True
        if stage.planned is None:
            return
        cached = stage.planned.plan.steps[:steps]
        for number in sorted(copied_in(step for _, step in cached)):
            if not self.stages[number].is_logged:
                self.log_cached(self.stages[number])
        for number, (phase, step) in enumerate(cached, start=stage.first_step + 1):
            self.log.begin(number, phase=phase, command=stage.shown(step))
            self.log.end(ok=True, exit_code=None, elapsed_ms=0, cached=True)


@dataclass(frozen=True, slots=True)
class Begun:
    """The sandbox of a stage.

    Attributes:
        steps: that it contains already.
        origin: the layer that it was made from; None: the base.
    """

    sandbox: BuildSandbox
    steps: int
    origin: Layer | None


def copied_in(steps: Iterable[Step]) -> set[int]:
    """Return the stages of which these steps copy files."""
    return {step.stage for step in steps if isinstance(step, Copy) and step.stage is not None}
