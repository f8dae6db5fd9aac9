"""What the recipe of a build comes to: its parts, and the steps before and after it (platform reference §7.2)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from wrenn.base.errors import InvalidRequest
from wrenn.control.builds.records import BuildRequest, Phase
from wrenn.recipe import (
    BaseConfig,
    BaseKind,
    From,
    Plan,
    ReadyCheck,
    Recipe,
    Start,
    Step,
    parse_dockerfile,
    parse_lines,
    parse_ready_check,
)

_PRE: Final = ("RUN --timeout=10m apt-get update",)
_POST: Final = (
    "RUN --timeout=10m apt-get clean",
    "RUN --timeout=10m apt-get autoremove -y",
    "RUN --timeout=10m rm -rf /var/lib/apt/lists/*",
)


@dataclass(frozen=True, slots=True)
class BuildPlan:
    """All steps of a build with their phases, and what the template gets."""

    steps: tuple[tuple[Phase, Step], ...]
    recipe: Plan
    ready_check: ReadyCheck | None

    @property
    def keeps_memory(self) -> bool:
        """Whether the template has memory and processes: something was started, or has to be ready."""
        return self.ready_check is not None or any(isinstance(step, Start) for _, step in self.steps)


def parse(request: BuildRequest) -> Recipe:
    """Parse the recipe or Dockerfile of a request. Raises InvalidRequest with the line."""
    if request.dockerfile:
        return parse_dockerfile(request.dockerfile, build_args=request.build_args)
    return parse_lines(list(request.recipe))


def base_of(request: BuildRequest, recipe: Recipe) -> From:
    """Return the base: what FROM says, otherwise the request's template."""
    if recipe.base is not None:
        return recipe.base
    return From(kind=BaseKind.TEMPLATE, reference=request.base_template, line=0, text="")


@dataclass(frozen=True, slots=True)
class Facts:
    """What is known of a recipe before its base is.

    Attributes:
        steps: how many it has, with those before and after it.
        needs_context: it copies files of the build's archive.
        base: what it begins with.
    """

    steps: int
    needs_context: bool
    base: From


def is_from_archive(base: From) -> bool:
    """Whether the base is a container image in the archive of the build, which has no files to copy then."""
    return base.kind is BaseKind.ARCHIVE


def container_image_of(base: From) -> str:
    """Return the reference of the container image that a build with this base begins with. Raises InvalidRequest: it is none."""
    if base.kind is not BaseKind.IMAGE or base.is_empty:
        raise InvalidRequest("A login to a registry needs a container image of a registry as base.")
    return base.reference


def check_recipe(request: BuildRequest) -> Facts:
    """Check everything about a request's recipe that does not depend on its base. Takes up to some hundred milliseconds.

    Raises:
        InvalidRequest: with the line.
    """
    recipe = parse(request)
    if recipe.stages and any(
        each.base is not None and each.base.kind is BaseKind.ARCHIVE
        for each in (recipe, *(stage.recipe for stage in recipe.stages))
    ):
        raise InvalidRequest("A Dockerfile of several stages cannot begin with an image in the archive.")
    return Facts(sum(count_steps(request, recipe)), recipe.needs_context, base_of(request, recipe))


def count_steps(request: BuildRequest, recipe: Recipe) -> list[int]:
    """Return how many steps each stage has, the result last, with those before and after the recipe. Raises as `plan`."""
    earlier = [len(plan_stage(stage.recipe, BaseConfig()).steps) for stage in recipe.stages]
    return [*earlier, len(plan(request, recipe, BaseConfig()).steps)]


def plan_stage(recipe: Recipe, base: BaseConfig) -> BuildPlan:
    """Return what is carried out for an earlier stage: it is there for its files, so nothing is started in the end. Raises as `plan`."""
    planned = recipe.plan(base)
    steps = tuple((Phase.RECIPE, step) for step in planned.steps if not isinstance(step, Start))
    return BuildPlan(steps, planned, None)


def plan(request: BuildRequest, recipe: Recipe, base: BaseConfig) -> BuildPlan:
    """Return what is carried out on this base.

    Raises:
        InvalidRequest: a value is not valid once its variables are replaced, with the line.
    """
    planned = recipe.plan(base)
    if request.healthcheck:
        ready = parse_ready_check(request.healthcheck)
    else:
        ready = planned.ready_check
    steps = tuple((Phase.RECIPE, step) for step in planned.steps)
    if not request.skip_pre_post:
        as_root = BaseConfig(environment=base.environment)
        before = tuple((Phase.PRE_BUILD, step) for step in parse_lines(list(_PRE)).plan(as_root).steps)
        after = tuple((Phase.POST_BUILD, step) for step in parse_lines(list(_POST)).plan(as_root).steps)
        steps = (*before, *steps, *after)
    return BuildPlan(steps, planned, ready)
