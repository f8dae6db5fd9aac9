"""What a recipe says, before variables are replaced: the result of the parsers, and the input of `plan`."""

from __future__ import annotations

from dataclasses import dataclass

from wrenn.recipe.healthcheck import ReadyCheck
from wrenn.recipe.words import Word


@dataclass(frozen=True, slots=True, kw_only=True)
class Statement:
    """One instruction as written. `line` is where it begins, `text` its original text."""

    line: int
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class RunStatement(Statement):
    """RUN. The shell replaces variables. `user`: instead of the one that USER has set."""

    argv: tuple[str, ...]
    timeout_s: float
    user: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class StartStatement(Statement):
    """START of a line-based recipe."""

    argv: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class EnvStatement(Statement):
    """ENV."""

    pairs: tuple[tuple[Word, Word], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class ArgStatement(Statement):
    """ARG. A name without a default has None."""

    pairs: tuple[tuple[str, Word | None], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelStatement(Statement):
    """LABEL, and MAINTAINER."""

    pairs: tuple[tuple[Word, Word], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class ExposeStatement(Statement):
    """EXPOSE: words which are split at white space when they are evaluated."""

    ports: tuple[Word, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkdirStatement(Statement):
    """WORKDIR."""

    path: Word


@dataclass(frozen=True, slots=True, kw_only=True)
class UserStatement(Statement):
    """USER. `create` as in `instructions.User`."""

    name: Word
    create: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class InlineStatement:
    """A heredoc of COPY or ADD."""

    name: str
    content: Word


@dataclass(frozen=True, slots=True, kw_only=True)
class CopyStatement(Statement):
    """COPY, and ADD with `extract`. Without `owner` the files belong to root, or with `owned_by_user` to the current user.

    `stage`: as in `instructions.Copy`.
    """

    sources: tuple[Word, ...]
    inline: tuple[InlineStatement, ...] = ()
    destination: Word
    owner: Word | None = None
    owned_by_user: bool = False
    mode: Word | None = None
    extract: bool = False
    stage: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class EntrypointStatement(Statement):
    """ENTRYPOINT. `exec_form` is a JSON array, which takes the arguments of CMD; an empty one removes the entry point."""

    argv: tuple[str, ...]
    exec_form: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class CmdStatement(Statement):
    """CMD."""

    argv: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class HealthcheckStatement(Statement):
    """HEALTHCHECK; None for `HEALTHCHECK NONE`."""

    check: ReadyCheck | None


AnyStatement = (
    RunStatement
    | StartStatement
    | EnvStatement
    | ArgStatement
    | LabelStatement
    | ExposeStatement
    | WorkdirStatement
    | UserStatement
    | CopyStatement
    | EntrypointStatement
    | CmdStatement
    | HealthcheckStatement
)
