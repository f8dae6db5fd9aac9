"""Words of a recipe: quotes and variables.

A word is parsed once into parts, without knowledge of any variable, and evaluated when the environment is known: the
environment of the base is known only when the build begins. Values of variables are never parsed again.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Final

from wrenn.recipe.limits import MAX_EXPANDED_WORD_B, MAX_NESTING

SPACE: Final = "\t\n\v\f\r \x85\xa0\u1680\u2000\u2001\u2002\u2003\u2004\u2005\u2006\u2007\u2008\u2009\u200a\u2028\u2029\u202f\u205f\u3000"
"""White space as Go's `unicode.IsSpace` defines it."""

_NAME: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]*|[0-9]+|[@*#?\-$!]")
_LINE_VARIABLE: Final = re.compile(r"\$(?:(\$)|([A-Za-z_][A-Za-z0-9_]*)|\{([A-Za-z_][A-Za-z0-9_]*)\})")
_PATTERN_OPERATORS: Final = ("#", "%", "/")


class WordError(ValueError):
    """A word has a syntax error, or cannot be evaluated. The message is for the author of the recipe."""


@dataclass(frozen=True, slots=True)
class Variable:
    """A reference to a variable.

    Attributes:
        name: its name; special parameters such as `$1` and `$?` are never set.
        operator: "" or one of `-`, `+`, `?`, with a leading `:` if an empty value counts as unset.
        word: what follows the operator.
    """

    name: str
    operator: str = ""
    word: Word | None = None


@dataclass(frozen=True, slots=True)
class Word:
    """Literal texts and variables, in order."""

    parts: tuple[str | Variable, ...]

    def evaluate(self, lookup: Callable[[str], str | None]) -> str:
        """Return the text of the word. `lookup` returns the value of a variable, or None if it is not set.

        Raises:
            WordError: the text would be longer than `MAX_EXPANDED_WORD_B`, or `${NAME:?message}` applies.
        """
        texts: list[str] = []
        size = 0
        for part in self.parts:
            text = part if isinstance(part, str) else _value(part, lookup)
            size += len(text)
            if size > MAX_EXPANDED_WORD_B:
                raise WordError(
                    f"the text is longer than {MAX_EXPANDED_WORD_B} characters after its variables were replaced"
                )
            texts.append(text)
        return "".join(texts)


def literal(text: str) -> Word:
    """Return the word that is this text, without variables."""
    return Word((text,) if text else ())


def _value(variable: Variable, lookup: Callable[[str], str | None]) -> str:
    value = lookup(variable.name)
    absent = value is None or (variable.operator.startswith(":") and not value)
    word = variable.word
    match variable.operator[-1:]:
        case "-" if absent and word is not None:
            return word.evaluate(lookup)
        case "+" if word is not None:
            return "" if absent else word.evaluate(lookup)
        case "?" if absent and word is not None:
            state = "unset" if value is None else "empty"
            raise WordError(f"{variable.name}: {word.evaluate(lookup) or f'is not allowed to be {state}'}")
        case _:
            return value or ""


def parse_line_value(text: str) -> Word:
    """Parse a value of a line-based recipe: `$NAME`, `${NAME}`, `$$` for a dollar sign, and no quotes."""
    parts: list[str | Variable] = []
    position = 0
    for found in _LINE_VARIABLE.finditer(text):
        parts.append(text[position : found.start()])
        parts.append("$" if found[1] else Variable(found[2] or found[3]))
        position = found.end()
    parts.append(text[position:])
    return Word(tuple(part for part in parts if part))


def parse_word(text: str, escape: str, *, quotes: bool = True) -> Word:
    """Parse a word of a Dockerfile: quotes are removed, variables recognized. Without `quotes` they are ordinary characters.

    Raises:
        WordError: a quote or brace is not closed, or an expansion is not supported.
    """
    reader = _Reader(text, escape, quotes=quotes)
    return Word(tuple(reader.read_until("", 0)))


@cache
def _plain_texts(escape: str, *, quotes: bool) -> tuple[re.Pattern[str], re.Pattern[str], re.Pattern[str]]:
    """Return patterns of characters without a meaning: in a word, in braces, in double quotes."""
    special = re.escape("$" + escape + ("'\"" if quotes else ""))
    return (
        re.compile(f"[^{special}]+"),
        re.compile(f"[^{special}}}]+"),
        re.compile(f'[^{re.escape("$" + escape)}"]+'),
    )


class _Reader:
    # Reads each character once, so the time is linear in the length of the word.

    def __init__(self, text: str, escape: str, *, quotes: bool) -> None:
        self._text = text
        self._escape = escape
        self._quotes = quotes
        self._position = 0
        self._plain, self._plain_in_braces, self._plain_in_quotes = _plain_texts(escape, quotes=quotes)

    def read_until(self, stop: str, depth: int) -> list[str | Variable]:
        parts: list[str | Variable] = []
        plain = self._plain_in_braces if stop else self._plain
        while self._position < len(self._text):
            if found := plain.match(self._text, self._position):
                parts.append(found[0])
                self._position = found.end()
                continue
            character = self._next()
            if character == stop:
                return parts
            if character == "$":
                parts.append(self._dollar(depth))
            elif character == "'" and self._quotes:
                parts.append(self._single_quoted())
            elif character == '"' and self._quotes:
                parts += self._double_quoted(depth)
            elif self._position < len(self._text):
                # An escape: the next character stands for itself. At the end of the word it is dropped.
                parts.append(self._next())
        if stop:
            raise WordError(f"the closing {stop} is missing")
        return parts

    def _next(self) -> str:
        character = self._text[self._position]
        self._position += 1
        return character

    def _single_quoted(self) -> str:
        end = self._text.find("'", self._position)
        if end < 0:
            raise WordError("the closing single quote is missing")
        text = self._text[self._position : end]
        self._position = end + 1
        return text

    def _double_quoted(self, depth: int) -> list[str | Variable]:
        parts: list[str | Variable] = []
        while self._position < len(self._text):
            if found := self._plain_in_quotes.match(self._text, self._position):
                parts.append(found[0])
                self._position = found.end()
                continue
            character = self._next()
            if character == '"':
                return parts
            if character == "$":
                parts.append(self._dollar(depth))
            elif self._position < len(self._text):
                following = self._text[self._position]
                # In double quotes only these can be escaped; before others the escape character stands for itself.
                parts.append(self._next() if following in ('"', "$", self._escape) else character)
        raise WordError("the closing double quote is missing")

    def _dollar(self, depth: int) -> str | Variable:
        if not self._text.startswith("{", self._position):
            name = self._name()
            return Variable(name) if name else "$"
        self._position += 1
        name = self._name()
        if not name:
            raise WordError("bad substitution: a name is expected after ${")
        if self._position >= len(self._text):
            raise WordError("the closing } is missing")
        operator = self._next()
        if operator == "}":
            return Variable(name)
        if operator == ":" and self._position < len(self._text):
            operator += self._next()
        if operator in _PATTERN_OPERATORS:
            raise WordError(
                f"${{{name}{operator}…}} is not supported: remove or replace parts of a value in a RUN"
            )
        if operator[-1] not in "-+?":
            raise WordError(f"unsupported modifier ({operator}) in the substitution of {name}")
        if depth >= MAX_NESTING:
            raise WordError(f"substitutions are nested more than {MAX_NESTING} deep")
        return Variable(name, operator, Word(tuple(self.read_until("}", depth + 1))))

    def _name(self) -> str:
        found = _NAME.match(self._text, self._position)
        if found is None:
            return ""
        self._position = found.end()
        return found[0]


def split_words(text: str, escape: str) -> list[str]:
    """Split at white space outside of quotes. Quotes and escapes stay in the words, for `parse_word`."""
    words: list[str] = []
    word: list[str] = []
    quote = ""
    quoted = False
    position = 0
    while position < len(text):
        character = text[position]
        position += 1
        if not quote and character in SPACE:
            if word or quoted:
                words.append("".join(word))
            word, quoted = [], False
            continue
        if character == escape and quote != "'":
            if position < len(text):  # at the end it is dropped
                word += (character, text[position])
                position += 1
            continue
        if quote:
            quote = "" if character == quote else quote
        elif character in "'\"":
            quote, quoted = character, True
        word.append(character)
    if word or quoted:
        words.append("".join(word))
    return words
