"""Line-based recipes: one instruction in each text, no comments, no continuation lines (platform reference §7.3)."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import Final

from wrenn.base.errors import InvalidRequest
from wrenn.recipe.durations import parse_duration
from wrenn.recipe.healthcheck import SHELL
from wrenn.recipe.instructions import BaseKind, From
from wrenn.recipe.limits import (
    MAX_COPY_SOURCES,
    MAX_INSTRUCTION_B,
    MAX_INSTRUCTIONS,
    MAX_RUN_TIMEOUT_S,
    MAX_TEXT_B,
    RECIPE_RUN_TIMEOUT_S,
    check_text,
    refused,
    shown,
)
from wrenn.recipe.recipe import USER_NAME, VARIABLE_NAME, Recipe
from wrenn.recipe.references import parse_base
from wrenn.recipe.statements import (
    AnyStatement,
    CopyStatement,
    EnvStatement,
    RunStatement,
    StartStatement,
    UserStatement,
    WorkdirStatement,
)
from wrenn.recipe.words import Word, literal, parse_line_value

_RUN_USER: Final = re.compile(r"--user=(\S*)(?:\s+|$)")
_COPY_OPTION: Final = re.compile(r"--(chown|chmod)=(\S*)\s+")
_TIMEOUT: Final = re.compile(r"--timeout(?:=(\S*))?(?:\s+|$)")


def parse_lines(lines: Sequence[str]) -> Recipe:
    """Parse a line-based recipe. Without a FROM as the first line `base` is None.

    Raises:
        InvalidRequest: the message begins with `line N`, where N is the number of the text, counted from 1.
    """
    if not lines:
        raise InvalidRequest("The recipe is empty.")
    if len(lines) > MAX_INSTRUCTIONS:
        raise InvalidRequest(f"The recipe has more than {MAX_INSTRUCTIONS} instructions.")
    if sum(map(len, lines)) > MAX_TEXT_B:
        raise InvalidRequest(f"The recipe is longer than {MAX_TEXT_B} bytes.")
    base: From | None = None
    statements: list[AnyStatement] = []
    for number, text in enumerate(lines, start=1):
        check_text(text, MAX_INSTRUCTION_B, f"line {number}: the instruction")
        keyword, rest = _split(number, text)
        if keyword != "FROM":
            statements.append(_statement(number, text.strip(), keyword, rest))
        elif number == 1:
            base = parse_base(rest, default=BaseKind.TEMPLATE, line=number, text=text.strip())
        else:
            raise refused(number, "FROM must be the first instruction")
    if not statements and (base is None or base.kind is BaseKind.TEMPLATE):
        raise InvalidRequest("The recipe has no instruction after FROM.")
    return Recipe(base=base, statements=tuple(statements))


def _split(number: int, text: str) -> tuple[str, str]:
    keyword, _, rest = text.strip().partition(" ")
    if not keyword:
        raise refused(number, "the line is empty")
    if not rest.strip():
        raise refused(number, f"nothing follows {shown(keyword)}")
    return keyword.upper(), rest.strip()


def _statement(line: int, text: str, keyword: str, rest: str) -> AnyStatement:
    match keyword:
        case "RUN":
            user, rest = _run_user(line, rest)
            timeout_s, command = run_timeout(line, rest, RECIPE_RUN_TIMEOUT_S)
            if user is None:
                user, command = _run_user(line, command)
            if not command:
                raise refused(line, "RUN without a command")
            return RunStatement(line=line, text=text, argv=(*SHELL, command), timeout_s=timeout_s, user=user)
        case "START":
            return StartStatement(line=line, text=text, argv=(*SHELL, rest))
        case "ENV":
            name, equals, value = rest.partition("=")
            if not equals or not VARIABLE_NAME.fullmatch(name):
                raise refused(line, "expected ENV NAME=VALUE")
            return EnvStatement(line=line, text=text, pairs=((literal(name), parse_line_value(value)),))
        case "WORKDIR":
            return WorkdirStatement(line=line, text=text, path=parse_line_value(rest))
        case "USER":
            if not USER_NAME.fullmatch(rest):
                raise refused(
                    line,
                    f"{shown(rest)} is not a name of a user: letters, digits, _ and -, not first a digit or -",
                )
            return UserStatement(line=line, text=text, name=literal(rest), create=True)
        case "COPY":
            return _copy(line, text, rest)
        case _:
            known = "FROM, RUN, START, ENV, WORKDIR, USER, COPY"
            raise refused(line, f"there is no instruction {shown(keyword)}, only {known}")


def _run_user(line: int, rest: str) -> tuple[str | None, str]:
    """Take `--user=NAME` from the beginning of what follows RUN. Returns the user, None without one, and the rest."""
    found = _RUN_USER.match(rest)
    if found is None:
        return None, rest
    if not USER_NAME.fullmatch(found[1]):
        raise refused(line, f"--user={shown(found[1])} is not a name of a user")
    return found[1], rest[found.end() :]


def _copy(line: int, text: str, rest: str) -> CopyStatement:
    options: dict[str, Word] = {}
    while found := _COPY_OPTION.match(rest):
        options[found[1]] = literal(found[2])
        rest = rest[found.end() :]
    *sources, destination = _paths(line, rest)
    if not sources:
        raise refused(line, "expected COPY SOURCE… DESTINATION")
    if len(sources) > MAX_COPY_SOURCES:
        raise refused(line, f"COPY has more than {MAX_COPY_SOURCES} sources")
    for source in sources:
        if source.startswith(("/", "--")) or ".." in source.split("/"):
            raise refused(line, f"{shown(source)} must be a path inside the build context, without ..")
    if len(sources) > 1 and not destination.endswith("/"):
        destination += "/"  # several sources have always been copied into a directory
    return CopyStatement(
        line=line,
        text=text,
        sources=tuple(map(literal, sources)),
        destination=literal(destination),
        owner=options.get("chown"),
        mode=options.get("chmod"),
        owned_by_user=True,
    )


def _paths(line: int, text: str) -> list[str]:
    """Split what COPY names: words, or a JSON array of texts, for paths with white space."""
    if not text.startswith("["):
        return text.split()
    try:
        found: object = json.loads(text)
    except ValueError as error:
        raise refused(line, "COPY has a JSON array that cannot be read") from error
    match found:
        case [_, *_] if all(isinstance(path, str) and path for path in found):  # pyright: ignore[reportUnknownVariableType]
            return [str(path) for path in found]  # pyright: ignore[reportUnknownVariableType, reportUnknownArgumentType]
        case _:
            raise refused(line, 'expected COPY ["SOURCE", …, "DESTINATION"]')


def run_timeout(line: int, rest: str, default_s: float) -> tuple[float, str]:
    """Take `--timeout=DURATION` from the beginning of what follows RUN. Returns the seconds and the command.

    Raises:
        InvalidRequest: not a duration, or not in bounds.
    """
    found = _TIMEOUT.match(rest)
    if found is None:
        return default_s, rest
    return timeout_seconds(line, found[1] or ""), rest[found.end() :]


def timeout_seconds(line: int, text: str) -> float:
    """Return the seconds of `--timeout`.

    Raises:
        InvalidRequest: not a duration, or not in bounds.
    """
    try:
        seconds = parse_duration(text)
    except ValueError as error:
        raise refused(line, f"--timeout: {error}") from error
    if not 0 < seconds <= MAX_RUN_TIMEOUT_S:
        raise refused(line, f"--timeout must be more than 0 and at most {MAX_RUN_TIMEOUT_S / 3600:g} hours")
    return seconds
