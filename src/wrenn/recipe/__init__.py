"""Recipes of templates and their build contexts: parsers and plans, without any network or process.

`parse_lines` and `parse_dockerfile` check the syntax and return a `Recipe`. `Recipe.plan` replaces the variables once the base
is known, and returns the steps that a worker carries out. The SDK packs a build context with `context`; the worker
reads it with `archive`, and identifies steps with `cache_key`.
"""

from __future__ import annotations

from wrenn.recipe.dockerfile import end_at_stage, parse_dockerfile
from wrenn.recipe.healthcheck import ReadyCheck, parse_ready_check
from wrenn.recipe.instructions import (
    BaseConfig,
    BaseKind,
    Copy,
    Env,
    From,
    InlineFile,
    Plan,
    Run,
    Start,
    State,
    Step,
    User,
    Workdir,
)
from wrenn.recipe.lines import parse_lines
from wrenn.recipe.recipe import Note, Recipe, Stage
from wrenn.recipe.references import parse_base

__all__ = [
    "BaseConfig",
    "BaseKind",
    "Copy",
    "Env",
    "From",
    "InlineFile",
    "Note",
    "Plan",
    "ReadyCheck",
    "Recipe",
    "Run",
    "Stage",
    "Start",
    "State",
    "Step",
    "User",
    "Workdir",
    "end_at_stage",
    "parse_base",
    "parse_dockerfile",
    "parse_lines",
    "parse_ready_check",
]
