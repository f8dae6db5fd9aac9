"""Messages of a process stream, without I/O. The platform's messages are parsed strictly."""

from __future__ import annotations

import codecs
import json
from dataclasses import dataclass
from typing import Final

from wrenn.sdk._parse import Fields, json_of
from wrenn.sdk.errors import UnexpectedAnswerError, error_of
from wrenn.sdk.types import Output, OutputStream

_STREAMS: Final[dict[int, OutputStream]] = {1: "stdout", 2: "stderr", 3: "pty"}


@dataclass(frozen=True, slots=True)
class Started:
    """The process runs. The next `replayed` bytes were written earlier, and `missed` bytes before those were discarded."""

    pid: int
    tag: str
    missed: int
    replayed: int


@dataclass(frozen=True, slots=True)
class Exited:
    """The process has ended."""

    exit_code: int
    signal: int | None
    signal_name: str | None
    out_of_memory: bool


TIMED_OUT: Final = Exited(137, 9, "SIGKILL", out_of_memory=False)
"""The end of a command that was killed at its time limit."""

Frame = Started | Output | Exited | None


class Reader:
    """Decodes the messages of one stream in order. A character may be split over two messages."""

    def __init__(self) -> None:
        new = codecs.getincrementaldecoder("utf-8")
        self._decoders = {kind: new(errors="replace") for kind in _STREAMS}

    def read(self, message: str | bytes) -> Frame:
        """Decode a message. Returns None for messages that can be ignored.

        Raises:
            WrennError: the platform reports that the stream failed.
        """
        if isinstance(message, bytes):
            if not message or message[0] not in _STREAMS:
                raise UnexpectedAnswerError("The platform sent output of an unknown kind.")
            data = message[1:]
            return Output(_STREAMS[message[0]], data, self._decoders[message[0]].decode(data))
        fields = Fields("stream message", json_of(message.encode()))
        match fields.text("type"):
            case "start" | "started":
                return Started(
                    fields.integer("pid"),
                    fields.optional_text("tag") or "",
                    fields.optional_integer("missed") or 0,
                    fields.optional_integer("replayed") or 0,
                )
            case "exit":
                return Exited(
                    fields.integer("exit_code"),
                    fields.optional_integer("signal"),
                    fields.optional_text("signal_name"),
                    fields.flag("out_of_memory"),
                )
            case "error":
                raise error_of(fields.optional_text("code"), fields.text("data"))
            case _:
                return None


def message_of(**fields: object) -> str:
    """Encode a message to the platform."""
    return json.dumps({name: value for name, value in fields.items() if value is not None})
