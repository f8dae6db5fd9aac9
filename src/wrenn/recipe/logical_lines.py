"""Logical lines of a Dockerfile: parser directives, comments, continuation lines and heredocs, as BuildKit reads them."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from wrenn.recipe.limits import MAX_INSTRUCTION_B, MAX_INSTRUCTIONS, refused, shown
from wrenn.recipe.words import SPACE

_DIRECTIVE: Final = re.compile(r"#\s*([A-Za-z][A-Za-z0-9]*)\s*=\s*(\S.*)")
_DIRECTIVES: Final = ("syntax", "escape", "check")
_HEREDOC: Final = re.compile(r"([0-9]*)<<(-?)([^<]+)", re.DOTALL)
_WITH_HEREDOCS: Final = ("ADD", "COPY", "RUN")


@dataclass(frozen=True, slots=True, kw_only=True)
class Heredoc:
    """A text within an instruction.

    Attributes:
        name: the delimiter without quotes.
        content: the lines before the delimiter, each with its line feed.
        expand: variables are replaced, because the delimiter has no quotes.
        strip_tabs: tabs at the beginnings of lines are removed (`<<-`).
    """

    name: str
    content: str
    expand: bool
    strip_tabs: bool

    @property
    def stripped(self) -> str:
        """The content, without leading tabs if that was asked for."""
        return re.sub(r"^\t+", "", self.content, flags=re.MULTILINE) if self.strip_tabs else self.content


@dataclass(frozen=True, slots=True, kw_only=True)
class LogicalLine:
    """An instruction, not parsed yet.

    Attributes:
        number: line in which it begins, counted from 1.
        keyword: upper case.
        rest: what follows the keyword, with continuation lines joined and without surrounding white space.
        heredocs: in the order of their delimiters in `rest`.
        text: original lines, for logs.
    """

    number: int
    keyword: str
    rest: str
    heredocs: tuple[Heredoc, ...]
    text: str


class Lines:
    """The logical lines of a text. `escape` is valid once the first one has been read."""

    def __init__(self, text: str) -> None:
        self._lines = text.removeprefix("\ufeff").replace("\r\n", "\n").split("\n")
        if self._lines[-1] == "":
            self._lines.pop()
        self._next = 0
        self.escape = "\\"

    def __iter__(self) -> Iterator[LogicalLine]:
        self._directives()
        count = 0
        while self._next < len(self._lines):
            first = self._next
            joined = self._joined()
            stripped = joined.strip(SPACE)
            if not stripped:
                continue
            count += 1
            if count > MAX_INSTRUCTIONS:
                raise refused(first + 1, f"there are more than {MAX_INSTRUCTIONS} instructions")
            keyword, *rest = re.split(r"[\t\v\f\r ]+", stripped, maxsplit=1)
            keyword = keyword.upper()
            # The delimiters are searched in the whole line, before heredocs of other instructions are refused.
            heredocs = tuple(self._heredocs(first, joined)) if keyword in _WITH_HEREDOCS else ()
            text = "\n".join(self._lines[first : self._next]).strip()
            if len(text) > MAX_INSTRUCTION_B or len(text.encode()) > MAX_INSTRUCTION_B:
                raise refused(first + 1, f"the instruction is longer than {MAX_INSTRUCTION_B} bytes")
            yield LogicalLine(
                number=first + 1,
                keyword=keyword,
                rest="".join(rest).strip(SPACE),
                heredocs=heredocs,
                text=text,
            )

    def _directives(self) -> None:
        # Only at the top, before anything else, even an empty line.
        seen: set[str] = set()
        while self._next < len(self._lines):
            found = _DIRECTIVE.fullmatch(self._lines[self._next].strip(SPACE))
            if found is None or found[1].lower() not in _DIRECTIVES:
                return
            name, value = found[1].lower(), found[2].strip()
            number = self._next + 1
            if name in seen:
                raise refused(number, f"the directive {name} is given twice")
            seen.add(name)
            if name == "escape":
                if value not in ("\\", "`"):
                    raise refused(number, f"the escape character {shown(value)} is neither \\ nor `")
                self.escape = value
            self._next += 1

    def _joined(self) -> str:
        """Take the next line and those that continue it."""
        line = self._lines[self._next].lstrip(SPACE)
        self._next += 1
        if line.startswith("#"):
            return ""
        body, continued = self._trim_continuation(line)
        parts = [body]
        while continued and self._next < len(self._lines):
            line = self._lines[self._next]
            self._next += 1
            # Comments and empty lines between continuation lines are left out, and do not end the instruction.
            stripped = line.lstrip(SPACE)
            if not stripped or stripped.startswith("#"):
                continue
            body, continued = self._trim_continuation(line)
            parts.append(body)
        return "".join(parts)

    def _trim_continuation(self, line: str) -> tuple[str, bool]:
        # Two escape characters are an escaped one, not a continuation.
        body = line.rstrip(" \t")
        continued = body.endswith(self.escape) and not body.endswith(2 * self.escape)
        return (body[:-1], True) if continued else (line, False)

    def _heredocs(self, first: int, line: str) -> Iterator[Heredoc]:
        if "<<" not in line:
            return
        for word in _shell_words(line, self.escape):
            found = _HEREDOC.fullmatch(word)
            if found is None:
                continue
            name = _unquoted(found[3], self.escape)
            if not name:
                continue
            content: list[str] = []
            strip_tabs = bool(found[2])
            while True:
                if self._next >= len(self._lines):
                    raise refused(first + 1, f"the heredoc {shown(name)} is not ended")
                text = self._lines[self._next]
                self._next += 1
                if (text.lstrip("\t") if strip_tabs else text) == name:
                    break
                content.append(text + "\n")
            yield Heredoc(name=name, content="".join(content), expand=name == found[3], strip_tabs=strip_tabs)


def _shell_words(line: str, escape: str) -> list[str]:
    # Words with their quotes, in which white space does not split. A quote that is not closed means no heredoc at all,
    # as in BuildKit: the shell will report it.
    words: list[str] = []
    word: list[str] = []
    quote = ""
    position = 0
    while position < len(line):
        character = line[position]
        position += 1
        if not quote and character in SPACE:
            words.append("".join(word))
            word = []
            continue
        word.append(character)
        if character == escape and quote != "'" and position < len(line):
            word.append(line[position])
            position += 1
        elif quote:
            quote = "" if character == quote else quote
        elif character in "'\"":
            quote = character
    words.append("".join(word))
    return [] if quote else words


def _unquoted(text: str, escape: str) -> str:
    result: list[str] = []
    quote = ""
    position = 0
    while position < len(text):
        character = text[position]
        position += 1
        if quote:
            if character == quote:
                quote = ""
                continue
        elif character in "'\"":
            quote = character
            continue
        elif character == escape and position < len(text):
            character = text[position]
            position += 1
        result.append(character)
    return "".join(result)
