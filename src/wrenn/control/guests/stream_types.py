"""First messages of the WebSockets that follow a process, and the parameters of their handshakes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Final, Literal, Self, TypeVar, cast

from pydantic import Field, StrictBool, StrictInt, ValidationError, model_validator

from wrenn.base.errors import InvalidRequest
from wrenn.control.guests.types import GuestPath, GuestUser
from wrenn.control.http import RequestBody
from wrenn.control.sandboxes import Envs, GuestText
from wrenn.protocol.api import EXEC_TIMEOUT_LIMIT_S

Encoding = Literal["text", "base64", "binary"]
OnDisconnect = Literal["kill", "keep"]
Tag = Annotated[GuestText, Field(min_length=1, max_length=128)]
Cells = Annotated[StrictInt, Field(ge=1, le=10_000)]

TERM: Final = "xterm-256color"
"""What a terminal is when the client does not say it."""


class _Program(RequestBody):
    """The fields that both start messages have."""

    args: list[GuestText] = Field(default_factory=list)
    envs: Envs = Field(default_factory=dict)
    cwd: GuestPath | None = None
    user: GuestUser | None = None
    tag: Tag | None = None

    @model_validator(mode="after")
    def _tag_is_no_pid(self) -> Self:
        if self.tag is not None and self.tag.isdigit():
            raise ValueError("tag must not be a number: it could not be told from a pid")
        return self


class StartExec(_Program):
    """The message `start` of `exec/stream`."""

    cmd: GuestText = Field(min_length=1)
    stdin: StrictBool = False
    timeout_sec: StrictInt | None = Field(None, ge=0, le=EXEC_TIMEOUT_LIMIT_S)
    encoding: Encoding = "text"
    on_disconnect: OnDisconnect = "kill"


class StartTerminal(_Program):
    """The message `start` of `pty`."""

    cmd: GuestText = Field("/bin/bash", min_length=1)
    cols: Cells = 80
    rows: Cells = 24
    encoding: Literal["base64", "binary"] = "base64"
    on_disconnect: OnDisconnect = "keep"


class ConnectTerminal(RequestBody):
    """The message `connect` of `pty`."""

    tag: Annotated[GuestText, Field(min_length=1)]
    replay: StrictBool = False
    confirm: StrictBool = False
    encoding: Literal["base64", "binary"] = "base64"


class Attach(RequestBody):
    """The query parameters of `processes/{selector}/stream`."""

    encoding: Encoding = "text"
    replay: bool = False


class Resize(RequestBody):
    """The message `resize` of `pty`."""

    cols: Cells
    rows: Cells


M = TypeVar("M", bound=RequestBody)


def checked(model: type[M], value: object) -> M:
    """Validate a message as this type, ignoring its `type`. Raises InvalidRequest, which names the field."""
    if isinstance(value, Mapping):
        message = cast("Mapping[str, object]", value)
        value = {name: part for name, part in message.items() if name != "type"}
    try:
        return model.model_validate(value)
    except ValidationError as error:
        fault = error.errors()[0]
        field = ".".join(str(part) for part in fault["loc"])[:200]
        text = str(fault["msg"]).removeprefix("Value error, ")
        raise InvalidRequest(f"{field}: {text[:1].lower()}{text[1:]}." if field else f"{text}.") from error
