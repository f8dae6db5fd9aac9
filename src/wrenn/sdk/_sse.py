"""Server-sent events out of chunks of bytes."""

from __future__ import annotations

from typing import Final

from wrenn.sdk.errors import UnexpectedAnswerError

_LINE_LIMIT_B: Final = 1024 * 1024


class Lines:
    """Collects chunks and gives the data of whole events. The platform writes each on one line."""

    def __init__(self) -> None:
        self._rest = b""

    def feed(self, chunk: bytes) -> list[bytes]:
        """The events that this chunk completes.

        Raises:
            UnexpectedAnswerError: a line without end.
        """
        *lines, self._rest = (self._rest + chunk).split(b"\n")
        if len(self._rest) > _LINE_LIMIT_B:
            raise UnexpectedAnswerError("The platform's answer is unexpected: an event without end.")
        return [line.removeprefix(b"data:").strip() for line in lines if line.startswith(b"data:")]
