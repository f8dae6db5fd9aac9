"""Parser for server-sent events, used by both clients."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from wrenn.sdk.errors import UnexpectedAnswerError

_FRAME_LIMIT_B: Final = 1024 * 1024


@dataclass(frozen=True, slots=True)
class Frame:
    """One event: its id, type and data."""

    id: str
    type: str
    data: str


class Frames:
    """Splits a byte stream into events. Comments and unknown fields are ignored."""

    def __init__(self) -> None:
        self._rest = b""

    def feed(self, piece: bytes) -> Iterator[Frame]:
        """Parse more bytes and yield the events that are complete.

        Raises:
            UnexpectedAnswerError: this is not an event stream.
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
