r"""Patterns of COPY and ADD, by the rules of Go's `filepath.Match`: `*`, `?`, `[a-z]`, `[^a]` and `\` match within one name."""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Final

from wrenn.recipe.limits import shown

_WILDCARDS: Final = re.compile(r"[*?\[\\]")
_MAX_WILDCARDS: Final = 8
"""Runs of `*` in one name. With the atomic groups below it bounds the time for a name that nearly matches."""


class PatternError(ValueError):
    """A pattern is not valid. The message is for the author of the recipe."""


def has_wildcards(name: str) -> bool:
    """Return whether this part of a path is a pattern, and not the name itself."""
    return _WILDCARDS.search(name) is not None


def check_pattern(path: str) -> None:
    """Check the pattern of each part of a path.

    Raises:
        PatternError: not valid, or too many wildcards.
    """
    for name in path.split("/"):
        if has_wildcards(name):
            compile_pattern(name)


@lru_cache(maxsize=256)
def compile_pattern(pattern: str) -> re.Pattern[str]:
    """Return a regular expression for `fullmatch` with one name.

    Raises:
        PatternError: not valid, or too many wildcards.
    """
    chunks = [""]
    position = 0
    while position < len(pattern):
        character = pattern[position]
        position += 1
        if character == "*":
            # Stars in a row are one.
            if position == 1 or pattern[position - 2] != "*" or chunks[-1]:
                chunks.append("")
        elif character == "?":
            chunks[-1] += "."
        elif character == "[":
            expression, position = _character_class(pattern, position)
            chunks[-1] += expression
        elif character == "\\":
            if position == len(pattern):
                raise PatternError(f"the pattern {shown(pattern)} is not valid: nothing follows the \\")
            chunks[-1] += re.escape(pattern[position])
            position += 1
        else:
            chunks[-1] += re.escape(character)
    if len(chunks) - 1 > _MAX_WILDCARDS:
        raise PatternError(f"the pattern {shown(pattern)} has more than {_MAX_WILDCARDS} wildcards in a name")
    first, *rest = chunks
    if not rest:
        return re.compile(first, re.DOTALL)
    # Each star takes as little as possible and never gives back, which finds a match if there is one: the text after
    # an earlier position of a chunk contains the text after a later one. So the time does not multiply with the stars.
    middle = "".join(f"(?>.*?{chunk})" for chunk in rest[:-1])
    return re.compile(f"{first}{middle}.*{rest[-1]}", re.DOTALL)


def _character_class(pattern: str, position: int) -> tuple[str, int]:
    def bad() -> PatternError:
        return PatternError(
            f"the pattern {shown(pattern)} is not valid: a [ is not closed, or has an invalid range"
        )

    def one() -> str:
        nonlocal position
        if position < len(pattern) and pattern[position] == "\\":
            position += 1
        elif position < len(pattern) and pattern[position] in "-]":
            raise bad()
        if position >= len(pattern):
            raise bad()
        position += 1
        return pattern[position - 1]

    negated = pattern.startswith("^", position)
    position += negated
    ranges: list[str] = []
    while not (ranges and pattern.startswith("]", position)):
        low = high = one()
        if pattern.startswith("-", position):
            position += 1
            high = one()
        if low > high:
            # Go accepts such a range, which matches nothing.
            ranges.append("")
        else:
            ranges.append(f"{re.escape(low)}-{re.escape(high)}")
    body = "".join(ranges)
    if not body:
        return ("." if negated else "(?!)"), position + 1
    return f"[{'^' if negated else ''}{body}]", position + 1
