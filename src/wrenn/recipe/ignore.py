"""`.dockerignore`: which files of a folder are not part of the build context, by Docker's rules."""

from __future__ import annotations

import posixpath
import re
from dataclasses import dataclass
from typing import Final

from wrenn.base.errors import InvalidRequest
from wrenn.recipe.limits import MAX_TEXT_B, check_text, refused, shown
from wrenn.recipe.words import SPACE

IGNORE_FILE: Final = ".dockerignore"
_MAX_PATTERNS: Final = 5_000


@dataclass(frozen=True, slots=True)
class _Rule:
    expression: re.Pattern[str]
    includes: bool


class IgnoreRules:
    """The rules of one file. The last rule that matches a path or a directory above it decides."""

    def __init__(self, rules: tuple[_Rule, ...] = ()) -> None:
        self._rules = rules
        self.has_exceptions = any(rule.includes for rule in rules)
        """Whether something below an ignored directory may be part of the context (`!pattern`)."""

    @classmethod
    def parse(cls, text: str) -> IgnoreRules:
        """Parse the text of a `.dockerignore`.

        Raises:
            InvalidRequest: a pattern is not valid; the message begins with the line.
        """
        check_text(text, MAX_TEXT_B, IGNORE_FILE)
        rules: list[_Rule] = []
        for number, line in enumerate(text.removeprefix("\ufeff").split("\n"), start=1):
            pattern = line.strip(SPACE)
            if line.startswith("#") or not pattern:
                continue
            includes = pattern.startswith("!")
            if includes:
                pattern = pattern[1:].strip(SPACE)
            path = posixpath.normpath(pattern).lstrip("/") if pattern else ""
            if not pattern or path.startswith("../"):
                raise refused(number, f"{shown(line)} is not a pattern of {IGNORE_FILE}")
            if path in ("", "."):
                continue  # the context itself, which cannot be ignored
            if len(rules) == _MAX_PATTERNS:
                raise InvalidRequest(f"{IGNORE_FILE} has more than {_MAX_PATTERNS} patterns.")
            rules.append(_Rule(_expression(number, path), includes))
        return cls(tuple(rules))

    def ignores(self, path: str) -> bool:
        """Return whether the file with this path, relative to the context and with slashes, is ignored."""
        ignored = False
        for rule in self._rules:
            if rule.includes == ignored and rule.expression.fullmatch(path):
                ignored = not rule.includes
        return ignored


def _expression(number: int, pattern: str) -> re.Pattern[str]:
    # The same translation as moby/patternmatcher: `**` matches any number of directories, other wildcards one name.
    parts: list[str] = []
    position = 0
    while position < len(pattern):
        character = pattern[position]
        position += 1
        if character == "*" and pattern.startswith("*", position):
            position += 1
            if pattern.startswith("/", position):
                position += 1
            parts.append(".*" if position == len(pattern) else "(?:.*/)?")
        elif character == "*":
            parts.append("[^/]*")
        elif character == "?":
            parts.append("[^/]")
        elif character == "\\" and position < len(pattern):
            parts.append(re.escape(pattern[position]))
            position += 1
        elif character == "[":
            end = pattern.find("]", position + pattern.startswith("^", position) + 1)
            if end < 0:
                raise refused(number, f"the pattern {shown(pattern)} is not valid: a [ is not closed")
            # Two of these characters may mean an operation on sets in a later version of Python; a hyphen at the begin means itself.
            first = position + pattern.startswith("^", position) + 1
            body = (
                (pattern[position:first] + pattern[first:end].replace("--", "-\\-"))
                .replace("[", "\\[")
                .replace("&&", "&\\&")
                .replace("||", "|\\|")
                .replace("~~", "~\\~")
            )
            parts.append(f"[{body}]")
            position = end + 1
        else:
            parts.append(re.escape(character))
    try:
        # With everything below it: a rule for a directory is one for what it contains.
        return re.compile("".join(parts) + "(?:/.*)?", re.DOTALL)
    except re.error as error:
        raise refused(number, f"the pattern {shown(pattern)} is not valid: {error.msg}") from error
