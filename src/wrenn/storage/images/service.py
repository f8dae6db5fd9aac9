"""The service of a template: a program that runs in its sandboxes from the beginning."""

from __future__ import annotations

from dataclasses import dataclass

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
        match value:
            case None:
                return None
            case {"command": [str(), *_] as command, "user": str(user), "ready": [str(), *_] as ready} if all(
                isinstance(word, str) for word in (*command, *ready)
            ):
                return cls(tuple(command), user, tuple(ready))
            case _:
                raise InvalidState(f"The {what} has an invalid service.")
