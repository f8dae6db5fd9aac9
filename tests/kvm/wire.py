"""Messages between the tests and the server in the host machine: one call for each connection, pickled, after its length.

Both ends are our own tests of one checkout, so pickle is no door for others.
"""

from __future__ import annotations

import asyncio
import pickle
import struct
from dataclasses import dataclass
from typing import Any, Final

_HEAD: Final = struct.Struct(">I")
_LIMIT_B: Final = 64 * 1024 * 1024
PORT: Final = 7777
"""Inside the host machine."""


@dataclass(frozen=True)
class Call:
    """A method of the server with its arguments."""

    method: str
    args: tuple[Any, ...] = ()
    kwargs: dict[str, Any] | None = None


@dataclass(frozen=True)
class Reply:
    """What it returned, or raised."""

    value: Any = None
    error: BaseException | None = None


def encode(message: Call | Reply) -> bytes:
    """One message with its length."""
    content = pickle.dumps(message)
    return _HEAD.pack(len(content)) + content


def decode(content: bytes) -> Any:
    """The message that was encoded so."""
    return pickle.loads(content[_HEAD.size :])


async def send(writer: asyncio.StreamWriter, message: Call | Reply) -> None:
    """Write one message."""
    writer.write(encode(message))
    await writer.drain()


async def receive(reader: asyncio.StreamReader) -> Any:
    """Read one message; EOFError: the other end has gone."""
    try:
        (size_b,) = _HEAD.unpack(await reader.readexactly(_HEAD.size))
        assert size_b <= _LIMIT_B
        return pickle.loads(await reader.readexactly(size_b))
    except (asyncio.IncompleteReadError, ConnectionError) as error:
        raise EOFError("the connection ended before its message") from error
