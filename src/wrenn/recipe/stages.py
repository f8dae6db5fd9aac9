"""Stages of a Dockerfile: each FROM begins one. The last is the result, the others are there for the files that COPY takes of them."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Final

from wrenn.base.errors import InvalidRequest
from wrenn.recipe.healthcheck import SHELL
from wrenn.recipe.instructions import SCRATCH, BaseKind, From
from wrenn.recipe.limits import (
    MAX_ALL_INSTRUCTIONS,
    MAX_INSTRUCTIONS,
    MAX_STAGES,
    MAX_VARIABLE_STATES,
    MAX_VARIABLES,
    refused,
    shown,
)
from wrenn.recipe.recipe import Note, Recipe, Stage
from wrenn.recipe.references import parse_base
from wrenn.recipe.statements import (
    AnyStatement,
    ArgStatement,
    CmdStatement,
    CopyStatement,
    EntrypointStatement,
    EnvStatement,
)

_NAME: Final = re.compile(r"[a-z][a-z0-9._-]{0,127}")


@dataclass(slots=True)
class Draft:
    """A stage while it is parsed.

    Attributes:
        name: in lower case; empty: it has none.
        base: what it begins with: of a stage on another stage, that one's.
        statements: with those of the stages that it is on.
        shell: for shell forms.
        inherited: how many of the statements are of the stages that it is on.
    """

    line: int
    name: str
    base: From
    statements: list[AnyStatement] = field(default_factory=list[AnyStatement])
    shell: tuple[str, ...] = SHELL
    inherited: int = 0

    def add(self, statement: AnyStatement) -> None:
        """Add a statement. An ENTRYPOINT makes a CMD of the stages below meaningless, as in Docker."""
        if isinstance(statement, EntrypointStatement):
            below = [each for each in self.statements[: self.inherited] if not isinstance(each, CmdStatement)]
            self.statements[: self.inherited] = below
            self.inherited = len(below)
        self.statements.append(statement)


class StageDrafts:
    """The stages of a Dockerfile in the order in which it has them, and the images of which it copies files."""

    def __init__(self) -> None:
        self._stages: list[Draft] = []
        # Images that COPY names are stages without instructions. Their numbers are negative: -1 is the first.
        self._images: list[Draft] = []

    @property
    def last(self) -> Draft | None:
        """The stage that is being parsed; None before the first FROM."""
        return self._stages[-1] if self._stages else None

    def begin(self, reference: str, name: str, *, line: int, text: str) -> None:
        """Begin a stage on an earlier one or on a base. `name` may be empty."""
        name = name.lower()
        if name == SCRATCH:
            raise refused(line, f"{SCRATCH} is the empty image, and not a name of a stage")
        if name and not _NAME.fullmatch(name):
            raise refused(
                line, f"{shown(name)} is not a name of a stage: a letter, then letters, digits, and ._-"
            )
        if name and self._number(name) is not None:
            raise refused(line, f"there is a stage {shown(name)} already")
        below = self._number(reference.lower())
        if below is None:
            base = parse_base(reference, default=BaseKind.IMAGE, line=line, text=text)
            self._stages.append(Draft(line, name, base))
            return
        parent = self._stages[below]
        statements = list(parent.statements)
        self._stages.append(Draft(line, name, parent.base, statements, parent.shell, len(statements)))

    def source(self, reference: str, *, line: int, text: str) -> int:
        """Return the number of the stage that a COPY takes files of: by its name, its place, or an image."""
        if "$" in reference:
            raise refused(line, "--from takes no variables: give a stage a name for the image with FROM")
        if reference.isascii() and reference.isdigit():
            number = int(reference) if len(reference) < 4 else len(self._stages)
        else:
            number = self._number(reference.lower())
        if number is not None:
            if number >= len(self._stages) - 1:
                raise refused(line, f"--from={shown(reference)} is not a stage before this one")
            return number
        for index, image in enumerate(self._images):
            if image.name == reference:
                return -1 - index
        base = parse_base(reference, default=BaseKind.IMAGE, line=line, text=text)
        if base.is_empty:
            raise refused(line, f"--from={SCRATCH}: the empty image has no files")
        self._images.append(Draft(line, reference, base))
        return -len(self._images)

    def line_after(self, target: str) -> int | None:
        """Return the line in which the stage after this one begins; None: it is the last. `target`: its name or its place.

        Raises:
            InvalidRequest: there is no such stage.
        """
        number = self._number(target.lower()) if target else None
        if number is None and target.isascii() and target.isdigit() and len(target) < 4:
            number = int(target)
        if number is None or number >= len(self._stages):
            raise InvalidRequest(f"target: the Dockerfile has no stage {shown(target)}.")
        after = self._stages[number + 1 : number + 2]
        return after[0].line if after else None

    def _number(self, name: str) -> int | None:
        return next((index for index, stage in enumerate(self._stages) if stage.name == name), None)

    def recipe(
        self, build_args: Mapping[str, str], global_args: Mapping[str, str | None], notes: list[Note]
    ) -> Recipe:
        """Return the recipe of the last stage with the ones that it needs, directly or through others.

        Raises:
            InvalidRequest: a COPY names a later stage; too many stages or instructions.
        """
        for image in self._images:
            if self._number(image.name.lower()) is not None:
                raise refused(image.line, f"the stage {shown(image.name)} comes later")
        final = len(self._stages) - 1
        needed = self._needed(final)
        for index, stage in enumerate(self._stages):
            if index not in needed:
                name = stage.name or str(index)
                notes = [*notes, Note(stage.line, f"the stage {name} is not needed and not built")]
        order = sorted(needed - {final}, key=lambda number: (number >= 0, abs(number)))
        if len(order) >= MAX_STAGES:
            raise refused(self._stages[final].line, f"there are more than {MAX_STAGES} stages")
        built = [self._at(number) for number in (*order, final)]
        if sum(len(draft.statements) for draft in built) > MAX_ALL_INSTRUCTIONS:
            raise refused(
                self._stages[final].line,
                f"the stages have more than {MAX_ALL_INSTRUCTIONS} instructions together, each with those of the stages below it",
            )
        if sum(map(_variable_states, built)) > MAX_VARIABLE_STATES:
            raise refused(
                self._stages[final].line,
                "there are too many ENV and ARG instructions for so many variables: set several in one instruction",
            )
        numbers = {number: place for place, number in enumerate(order)}

        def finished(number: int) -> Recipe:
            draft = self._at(number)
            if len(draft.statements) > MAX_INSTRUCTIONS:
                raise refused(
                    draft.line,
                    f"there are more than {MAX_INSTRUCTIONS} instructions, with those of the stages below",
                )
            return Recipe(
                base=draft.base,
                statements=tuple(_renumbered(each, numbers) for each in draft.statements),
                build_args=build_args,
                global_args=global_args,
            )

        stages = tuple(Stage(name=self._at(each).name or str(each), recipe=finished(each)) for each in order)
        return replace(finished(final), stages=stages, notes=tuple(notes))

    def _at(self, number: int) -> Draft:
        return self._stages[number] if number >= 0 else self._images[-1 - number]

    def _needed(self, final: int) -> set[int]:
        needed = {final}
        pending = [final]
        while pending:
            for number in _copied(self._at(pending.pop())):
                if number not in needed:
                    needed.add(number)
                    pending.append(number)
        return needed


def _variable_states(draft: Draft) -> int:
    """Return the sum of how many variables there may be after each instruction that sets some."""
    total = variables = 0
    for statement in draft.statements:
        if isinstance(statement, EnvStatement | ArgStatement):
            variables = min(variables + len(statement.pairs), MAX_VARIABLES)
            total += variables
    return total


def _copied(draft: Draft) -> Iterator[int]:
    for statement in draft.statements:
        if isinstance(statement, CopyStatement) and statement.stage is not None:
            yield statement.stage


def _renumbered(statement: AnyStatement, numbers: Mapping[int, int]) -> AnyStatement:
    if isinstance(statement, CopyStatement) and statement.stage is not None:
        return replace(statement, stage=numbers[statement.stage])
    return statement
