"""Messages on the WebSocket by which the control plane follows a process, in both directions (docs/design/streams.md).

Each message is binary: one byte for its kind, followed by bytes of the process or a JSON object. The first
message from the control plane is `OPEN`; the last one from the agent is `EXITED` or `FAILED`.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from enum import IntEnum
from typing import Any, Final, cast

from wrenn.base.errors import AgentFailure, InternalError, InvalidRequest, WrennError, error_class
from wrenn.base.signal_names import is_signal
from wrenn.base.units import KIB, MIB

STREAM_PATH: Final = "/processes/stream"
MESSAGE_LIMIT_B: Final = 1 * MIB
"""Longest message in either direction; the longest one is a command with its environment variables."""
OUTPUT_PIECE_B: Final = 256 * KIB
"""Buffered output is merged up to about this length."""
STALL_LIMIT_S: Final = 60.0
"""How long a reader may take for one message before it is disconnected. The guest agent has the same limit
for its readers."""

MESSAGE_HEAD: Final = struct.Struct(">I")
"""Length prefix of each message in the response to `POST /sandboxes/{id}/exec`."""

SERVICE_RESTART: Final = 1012
"""Close code of a server that shuts down: the caller has not abandoned the process."""


class Kind(IntEnum):
    """The first byte of a message."""

    # From the agent. The first three are those of the public API's binary messages, so they are forwarded
    # unchanged.
    STDOUT = 1
    STDERR = 2
    PTY = 3
    STARTED = 16
    EXITED = 17
    FAILED = 18
    # From the control plane.
    OPEN = 32
    INPUT = 33
    CLOSE_INPUT = 34
    RESIZE = 35
    SIGNAL = 36


OUTPUTS: Final = frozenset({Kind.STDOUT, Kind.STDERR, Kind.PTY})


@dataclass(frozen=True, slots=True)
class Size:
    """Size of a terminal, in characters."""

    cols: int
    rows: int


@dataclass(frozen=True, slots=True)
class StartProcess:
    """Start a program and follow it.

    Attributes:
        stdin: the client will send input; otherwise the input is empty.
        terminal: size of the terminal to run it in; a terminal is its input too.
        timeout_ms: the process is killed after this time; 0: never.
        kill_when_left: the process is killed with all its descendants if the control plane disconnects before
            its end.
    """

    cmd: str
    args: Sequence[str] = ()
    envs: Mapping[str, str] = field(default_factory=dict[str, str])
    cwd: str = ""
    user: str = "root"
    tag: str = ""
    stdin: bool = False
    terminal: Size | None = None
    timeout_ms: int = 0
    kill_when_left: bool = False


@dataclass(frozen=True, slots=True)
class AttachProcess:
    """Follow a process that was started earlier, by pid or tag. With `replay`, its buffered output comes first."""

    selector: int | str
    replay: bool = False
    terminal: bool = False


@dataclass(frozen=True, slots=True)
class Opening:
    """The first message: in which sandbox to start or follow a process. `request_id`: for the log; from the caller, unchecked."""

    sandbox_id: str
    process: StartProcess | AttachProcess
    request_id: str = ""


def open_message(sandbox_id: str, process: StartProcess | AttachProcess, *, request_id: str = "") -> bytes:
    """Encode the first message."""
    name = "start" if isinstance(process, StartProcess) else "attach"
    value: dict[str, object] = {"sandbox_id": sandbox_id, name: asdict(process)}
    # The connection may have been made ahead of need, so its handshake has no request id.
    return json_message(Kind.OPEN, value | ({"request_id": request_id} if request_id else {}))


def parse_opening(payload: bytes) -> Opening:
    """Parse the first message.

    Raises:
        InvalidRequest: it is not valid in this version.
    """
    try:
        value = parse_json(payload)
        request_id = str(value.get("request_id", ""))
        if "attach" in value:
            return Opening(str(value["sandbox_id"]), AttachProcess(**value["attach"]), request_id)
        fields = dict(value["start"])
        terminal = fields.pop("terminal")
        start = StartProcess(**fields, terminal=Size(**terminal) if terminal else None)
        return Opening(str(value["sandbox_id"]), start, request_id)
    except (KeyError, TypeError) as error:
        raise InvalidRequest("The stream does not begin with a process to start or to follow.") from error


def json_message(kind: Kind, value: Mapping[str, object]) -> bytes:
    """Encode a message whose payload is a JSON object."""
    return bytes((kind,)) + json.dumps(value).encode()


def parse_json(payload: bytes) -> dict[str, Any]:
    """Parse the JSON object of a message. Raises InvalidRequest."""
    try:
        value = json.loads(payload)
    except ValueError as error:
        raise InvalidRequest("A message of the stream is not JSON.") from error
    if not isinstance(value, dict):
        raise InvalidRequest("A message of the stream is no JSON object.")
    return cast("dict[str, Any]", value)


@dataclass(frozen=True, slots=True)
class ProcessEnd:
    """How a process ended.

    Attributes:
        exit_code: 128 + `signal` if a signal terminated it.
        signal: number of the signal, otherwise 0.
        out_of_memory: the guest's kernel killed it, or a process that it started, because memory was
            exhausted.
    """

    exit_code: int
    signal: int = 0
    out_of_memory: bool = False


def exited_message(end: ProcessEnd) -> bytes:
    """Encode the end of the process. Default values are omitted, as by older agents."""
    value: dict[str, object] = {"exit_code": end.exit_code}
    if end.signal:
        value["signal"] = end.signal
    if end.out_of_memory:
        value["out_of_memory"] = True
    return json_message(Kind.EXITED, value)


def parse_end(payload: bytes) -> ProcessEnd:
    """Parse the payload of `EXITED`. Raises AgentFailure."""
    try:
        value = parse_json(payload)
        signal = int(value.get("signal", 0))
        return ProcessEnd(
            int(value["exit_code"]), signal if is_signal(signal) else 0, "out_of_memory" in value
        )
    except (InvalidRequest, KeyError, TypeError, ValueError) as error:
        raise AgentFailure("The host sent a message that cannot be read.") from error


def failure_message(error: WrennError) -> bytes:
    """Encode the last message of a stream that failed. Details of internal errors are not sent."""
    return json_message(Kind.FAILED, {"code": error.code, "message": error.message})


def parse_failure(payload: bytes) -> WrennError:
    """Parse the error that the agent reported."""
    try:
        value = parse_json(payload)
        kind, text = error_class(str(value["code"])), str(value["message"])
    except (InvalidRequest, KeyError):
        return AgentFailure("The host ended the stream without a reason.")
    return kind(text) if kind is not InternalError else InternalError(text)
