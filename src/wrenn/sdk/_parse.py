"""Parses the platform's JSON strictly: a missing or mistyped field is an error, an unknown field is ignored."""

from __future__ import annotations

import json
from datetime import datetime
from typing import cast

from wrenn.sdk.errors import UnexpectedAnswerError


class Fields:
    """A JSON object in a response. Every method raises `UnexpectedAnswerError` if the field is missing or has a wrong type."""

    def __init__(self, what: str, value: object) -> None:
        if not isinstance(value, dict):
            raise UnexpectedAnswerError(f"The platform's response contains no {what}: is the base URL right?")
        self._what = what
        self._values = cast("dict[str, object]", value)

    def _bad(self, name: str, expected: str) -> UnexpectedAnswerError:
        return UnexpectedAnswerError(
            f"The platform's response is unexpected: {self._what}.{name} is not {expected}."
        )

    def text(self, name: str) -> str:
        """A required string."""
        value = self._values.get(name)
        if not isinstance(value, str):
            raise self._bad(name, "a string")
        return value

    def optional_text(self, name: str) -> str | None:
        """A string, or None if absent."""
        return None if self._values.get(name) is None else self.text(name)

    def integer(self, name: str) -> int:
        """A required integer."""
        value = self._values.get(name)
        if not isinstance(value, int) or isinstance(value, bool):
            raise self._bad(name, "a whole number")
        return value

    def optional_integer(self, name: str) -> int | None:
        """An integer, or None if absent."""
        return None if self._values.get(name) is None else self.integer(name)

    def optional_number(self, name: str) -> float | None:
        """A number that may be absent."""
        value = self._values.get(name)
        if value is None:
            return None
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise self._bad(name, "a number")
        return float(value)

    def flag(self, name: str) -> bool:
        """A boolean; False if absent."""
        value = self._values.get(name, False)
        if not isinstance(value, bool):
            raise self._bad(name, "true or false")
        return value

    def time(self, name: str) -> datetime:
        """A required RFC 3339 time with its UTC offset."""
        try:
            moment = datetime.fromisoformat(self.text(name))
        except ValueError as error:
            raise self._bad(name, "a time") from error
        if moment.tzinfo is None:
            raise self._bad(name, "a time with a zone")
        return moment

    def optional_time(self, name: str) -> datetime | None:
        """A time, or None if absent."""
        return None if self._values.get(name) is None else self.time(name)

    def objects(self, name: str, what: str) -> list[Fields]:
        """A list of objects."""
        return objects(what, self._values.get(name))

    def values(self, name: str) -> dict[str, object]:
        """An object with arbitrary values; empty if absent."""
        return dict(Fields(name, self._values.get(name) or {})._values)

    def object(self, name: str) -> Fields:
        """A required object."""
        return Fields(name, self._values.get(name))

    def optional_object(self, name: str) -> Fields | None:
        """An object, or None if absent."""
        return None if self._values.get(name) is None else self.object(name)

    def texts(self, name: str) -> tuple[str, ...]:
        """A list of strings; empty if absent."""
        value = self._values.get(name, [])
        if not isinstance(value, list) or not all(
            isinstance(item, str) for item in cast("list[object]", value)
        ):
            raise self._bad(name, "a list of strings")
        return tuple(cast("list[str]", value))

    def integers(self, name: str) -> tuple[int, ...]:
        """A list of integers; empty if absent."""
        value = self._values.get(name, [])
        if not isinstance(value, list) or not all(
            isinstance(item, int) and not isinstance(item, bool) for item in cast("list[object]", value)
        ):
            raise self._bad(name, "a list of numbers")
        return tuple(cast("list[int]", value))

    def text_map(self, name: str) -> dict[str, str]:
        """An object with string values; empty if absent."""
        pairs = Fields(name, self._values.get(name) or {})
        return {key: pairs.text(key) for key in pairs._values}


def objects(what: str, value: object) -> list[Fields]:
    """Parse a JSON list of objects."""
    if not isinstance(value, list):
        raise UnexpectedAnswerError(
            f"The platform's answer is no list of {what} objects: is the base URL right?"
        )
    return [Fields(what, item) for item in cast("list[object]", value)]


def json_of(body: bytes) -> object:
    """Parse a body as JSON.

    Raises:
        UnexpectedAnswerError: it is not JSON.
    """
    try:
        return json.loads(body)
    except (ValueError, RecursionError) as error:
        raise UnexpectedAnswerError("The platform's answer is not JSON: is the base URL right?") from error
