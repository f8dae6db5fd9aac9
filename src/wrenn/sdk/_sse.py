"""Server-sent events, from bytes to frames: what both clients read."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from wrenn.sdk.errors import UnexpectedAnswerError

_FRAME_LIMIT_B: Final = 1024 * 1024


@dataclass(frozen=True, slots=True)
class Frame:
    """One event: its id, its type and its data."""

    id: str
    type: str
    data: str


class Frames:
    """Takes the bytes of a stream in any pieces and gives its frames. Comments and unknown fields are left out."""

    def __init__(self) -> None:
        self._rest = b""

    def feed(self, piece: bytes) -> Iterator[Frame]:
        """The frames that are whole now.

        Raises:
            UnexpectedAnswerError: this is no stream of events.
        """
        *whole, self._rest = (self._rest + piece).split(b"\n\n")
        if len(self._rest) > _FRAME_LIMIT_B:
            raise UnexpectedAnswerError("The platform's events are too large: is the base URL right?")
        for block in whole:
            fields = dict(_field(line) for line in block.decode("utf-8", "replace").split("\n"))
            if "data" in fields:
                yield Frame(fields.get("id", ""), fields.get("event", ""), fields["data"])


def _field(line: str) -> tuple[str, str]:
    name, _, value = line.partition(":")
    return name, value.removeprefix(" ")
