"""The service of a template: a program that runs in its sandboxes from the beginning."""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

from wrenn.base.errors import InvalidState


@dataclass(frozen=True, slots=True)
class Service:
    """A program that is started before a base of the template is saved, so that it is up in every sandbox that is made from it.

    Attributes:
        command: program and arguments.
        user: whose processes they are.
        ready: program and arguments of a check that succeeds as soon as the service can be used.
    """

    command: tuple[str, ...]
    user: str
    ready: tuple[str, ...]

    @classmethod
    def parse(cls, value: object, *, what: str) -> Service | None:
        """Return the service of a recipe or manifest; None if it has none.

        Raises:
            InvalidState: it is not one.
        """
        if value is None:
            return None
        fields = cast(dict[str, object], value) if isinstance(value, dict) else {}
        command, ready, user = _words(fields.get("command")), _words(fields.get("ready")), fields.get("user")
        if not command or not ready or not isinstance(user, str):
            raise InvalidState(f"The {what} has an invalid service.")
        return cls(command, user, ready)


def _words(value: object) -> tuple[str, ...]:
    """Return a list of texts; empty if it is none."""
    words = cast(list[object], value) if isinstance(value, list) else []
    texts = tuple(word for word in words if isinstance(word, str))
    return texts if len(texts) == len(words) else ()
