"""The messages on a stream of a process, without I/O: what the platform says, read strictly."""

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
    """The process runs. `replayed` bytes of what comes are old, `missed` bytes before those are gone."""

    pid: int
    tag: str
    missed: int
    replayed: int


@dataclass(frozen=True, slots=True)
class Exited:
    """It has ended."""

    exit_code: int
    signal: int | None
    signal_name: str | None
    out_of_memory: bool


TIMED_OUT: Final = Exited(137, 9, "SIGKILL", out_of_memory=False)
"""How a command ends that is killed at its time limit."""

Frame = Started | Output | Exited | None


class Reader:
    """Reads one stream's messages in their order: a character may come in two of them."""

    def __init__(self) -> None:
        new = codecs.getincrementaldecoder("utf-8")
        self._decoders = {kind: new(errors="replace") for kind in _STREAMS}

    def read(self, message: str | bytes) -> Frame:
        """What a message says; None: nothing that matters.

        Raises:
            WrennError: the platform says that the stream failed.
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
    """A message to the platform."""
    return json.dumps({name: value for name, value in fields.items() if value is not None})
