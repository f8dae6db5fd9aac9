"""The messages between a client and the control plane, in the two dialects of docs/reference/streams.md. No I/O.

The agent's binary messages come in, and the client's messages go out; and the other way round.
"""

from __future__ import annotations

import base64
import binascii
import codecs
import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final, cast

from wrenn.base.errors import DeadlineExceeded, InvalidRequest, WrennError
from wrenn.base.signal_names import signal_name
from wrenn.base.units import KIB
from wrenn.control.guests.commands import signal_number
from wrenn.control.guests.stream_types import Encoding, Resize, checked
from wrenn.control.hosts import SIGNALS, Kind, ProcessEnd

_TEXT_PIECE_B: Final = 32 * KIB
_BASE64_PIECE_B: Final = 24 * KIB
_TERMINAL_PIECE_B: Final = 12 * KIB
"""Longest output in one message of JSON; those of base64 are whole groups."""
_NAMES: Final = {Kind.STDOUT: "stdout", Kind.STDERR: "stderr", Kind.PTY: "pty"}


@dataclass(frozen=True, slots=True)
class Input:
    """Input for the process."""

    data: bytes


@dataclass(frozen=True, slots=True)
class CloseInput:
    """Close the input of the process."""


@dataclass(frozen=True, slots=True)
class Signal:
    """Send a signal to the process."""

    number: int


@dataclass(frozen=True, slots=True)
class Stop:
    """The client wants to end the stream."""


ClientCommand = Input | CloseInput | Signal | Resize | Stop | None
"""What a client's message asks for; None: nothing that is known here."""


def json_object(message: str | bytes) -> dict[str, Any]:
    """Parse a message as a JSON object. Raises InvalidRequest."""
    if isinstance(message, bytes):
        raise InvalidRequest("The message must be text: a JSON object.")
    try:
        value = json.loads(message)
    except (ValueError, RecursionError):
        value = None
    if not isinstance(value, dict):
        raise InvalidRequest("The message is no JSON object.")
    return cast("dict[str, Any]", value)


def _text(value: dict[str, Any], name: str) -> str:
    text = value.get(name)
    if not isinstance(text, str):
        raise InvalidRequest(f"{name}: must be a text.")
    return text


def _from_base64(text: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise InvalidRequest("data: must be base64.") from error


def _pieces(data: bytes, length: int) -> Iterator[bytes]:
    return (data[at : at + length] for at in range(0, len(data), length))


class ExecFrames:
    """Formats messages of `exec/stream` and of `processes/{selector}/stream`."""

    def __init__(self, encoding: Encoding) -> None:
        self._encoding = encoding
        new = codecs.getincrementaldecoder("utf-8")
        # A character may come in two chunks: each stream keeps the beginning of it.
        self._decoders = {kind: new(errors="replace") for kind in _NAMES}

    def started(self, pid: int, **replay: int) -> str:
        """Format that the process was started."""
        return _json(type="start", pid=pid, **_without_zeros(replay))

    def output(self, message: bytes) -> Iterator[str | bytes]:
        """Format output of the process."""
        if self._encoding == "binary":
            yield message
            return
        kind, data = Kind(message[0]), message[1:]
        if self._encoding == "base64":
            for piece in _pieces(data, _BASE64_PIECE_B):
                yield _json(type=_NAMES[kind], data=base64.b64encode(piece).decode())
            return
        for piece in _pieces(data, _TEXT_PIECE_B):
            if text := self._decoders[kind].decode(piece):
                yield _json(type=_NAMES[kind], data=text)

    def exited(self, end: ProcessEnd) -> Iterator[str]:
        """Format the end of the process, after the rest of an incomplete character."""
        for kind, decoder in self._decoders.items():
            if text := decoder.decode(b"", final=True):
                yield _json(type=_NAMES[kind], data=text)
        yield _exit(end)

    def failed(self, error: WrennError) -> str:
        """Format the error that ended the stream."""
        return failed_exec(error)

    def ping(self) -> str:
        """Format a ping, sent while input waits for the process."""
        return _json(type="ping")

    def parse_command(self, message: str | bytes) -> ClientCommand:
        """Parse a client's message. Raises InvalidRequest."""
        if isinstance(message, bytes):
            return Input(message)
        value = json_object(message)
        match value.get("type"):
            case "stdin":
                text = _text(value, "data")
                if self._encoding == "base64":
                    return Input(_from_base64(text))
                try:
                    return Input(text.encode())
                except UnicodeEncodeError as error:
                    raise InvalidRequest("data: must be valid Unicode.") from error
            case "close_stdin":
                return CloseInput()
            case "signal":
                return Signal(signal_number(_text(value, "signal")))
            case "stop":
                return Stop()
            case _:
                return None


class TerminalFrames:
    """Formats messages of `pty`. `tag` is sent when the process starts; without it nothing is sent then."""

    def __init__(self, encoding: Encoding, tag: str | None) -> None:
        self._encoding = encoding
        self._tag = tag

    def started(self, pid: int, **replay: int) -> str | None:
        """Format that the process was started."""
        if self._tag is None:
            return None
        return _json(type="started", tag=self._tag, pid=pid, **_without_zeros(replay))

    def output(self, message: bytes) -> Iterator[str | bytes]:
        """Format output of the process."""
        if self._encoding == "binary":
            yield message
            return
        for piece in _pieces(message[1:], _TERMINAL_PIECE_B):
            yield _json(type="output", data=base64.b64encode(piece).decode())

    def exited(self, end: ProcessEnd) -> Iterator[str]:
        """Format the end of the process."""
        yield _exit(end)

    def failed(self, error: WrennError) -> str:
        """Format the error that ended the stream."""
        return failed_terminal(error)

    def ping(self) -> str:
        """Format a ping."""
        return _json(type="ping")

    def parse_command(self, message: str | bytes) -> ClientCommand:
        """Parse a client's message. Raises InvalidRequest."""
        if isinstance(message, bytes):
            return Input(message)
        value = json_object(message)
        match value.get("type"):
            case "input":
                return Input(_from_base64(_text(value, "data")))
            case "resize":
                return checked(Resize, value)
            case "kill":
                return Signal(SIGNALS["SIGKILL"])
            case "signal":
                return Signal(signal_number(_text(value, "signal")))
            case _:
                return None


Frames = ExecFrames | TerminalFrames


def failed_exec(error: WrennError) -> str:
    """Format an error as the last message of `exec/stream`."""
    late = {"timed_out": True} if isinstance(error, DeadlineExceeded) else {}
    return _json(type="error", data=error.message, code=error.code, **late)


def failed_terminal(error: WrennError) -> str:
    """Format an error as the last message of `pty`."""
    return _json(type="error", data=error.message, fatal=True, code=error.code)


def _exit(end: ProcessEnd) -> str:
    fields: dict[str, object] = {"exit_code": end.exit_code}
    if end.signal:
        fields.update(signal=end.signal, signal_name=signal_name(end.signal))
    if end.out_of_memory:
        fields["out_of_memory"] = True
    return _json(type="exit", **fields)


def _without_zeros(numbers: dict[str, int]) -> dict[str, int]:
    return {name: number for name, number in numbers.items() if number}


def _json(**fields: object) -> str:
    return json.dumps(fields, ensure_ascii=False, separators=(",", ":"))
