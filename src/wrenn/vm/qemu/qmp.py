"""Client for QMP, QEMU's control protocol: JSON lines over a Unix socket, with descriptors as ancillary data.

Source: QEMU's "QEMU Machine Protocol Specification". The VMM is not trusted (a guest may have taken it over): lines are
bounded, and every command has a deadline.

Each command has an id, which QEMU repeats in its answer. When a connection is closed while a command runs, QEMU sends the answer to
the next connection.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final, cast

from wrenn.base.errors import AgentFailure
from wrenn.base.ids import random_hex
from wrenn.base.on_failure import on_failure

_LINE_LIMIT_B: Final = 1024 * 1024
_READ_B: Final = 64 * 1024
COMMAND_TIMEOUT_S: Final = 10.0
_SILENT: Final = "The VMM does not answer on its control socket."


class QmpError(AgentFailure):
    """The VMM refused a command, violated the protocol, or does not answer."""


class Qmp:
    """One QMP connection. Commands run one at a time; events are ignored (state is queried instead)."""

    def __init__(self, connection: socket.socket) -> None:
        self._socket = connection
        self._buffer = bytearray()
        self._turn = asyncio.Lock()

    @classmethod
    async def connect(cls, path: Path, *, timeout_s: float = COMMAND_TIMEOUT_S) -> Qmp:
        """Connect to the VMM that listens at `path` and negotiate capabilities.

        Raises:
            QmpError: the VMM does not answer.
        """
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
        connection.setblocking(False)  # noqa: FBT003 - the standard library's signature
        with on_failure(connection.close):
            try:
                async with asyncio.timeout(timeout_s):
                    await asyncio.get_running_loop().sock_connect(connection, str(path))
            except (OSError, TimeoutError) as error:
                raise QmpError(_SILENT, context={"path": str(path)}) from error
        return await cls.negotiated(connection, timeout_s=timeout_s)

    @classmethod
    async def negotiated(cls, connection: socket.socket, *, timeout_s: float = COMMAND_TIMEOUT_S) -> Qmp:
        """Negotiate capabilities over a connected, non-blocking socket, which is closed on failure.

        Raises:
            QmpError: the VMM does not answer.
        """
        qmp = cls(connection)
        with on_failure(connection.close):
            try:
                async with asyncio.timeout(timeout_s):
                    # The answer to a command of a former connection may come first.
                    while "QMP" not in _object(await qmp._read_line()):
                        pass
                    await qmp.execute("qmp_capabilities", timeout_s=timeout_s)
            except (OSError, TimeoutError, ValueError, RecursionError) as error:
                raise QmpError(_SILENT) from error
        return qmp

    async def execute(
        self,
        command: str,
        arguments: Mapping[str, Any] | None = None,
        *,
        fds: Sequence[int] = (),
        timeout_s: float = COMMAND_TIMEOUT_S,
    ) -> Any:
        """Run one command and return its `return` value. A timeout or cancellation closes the connection.

        Raises:
            QmpError: refused (message of QEMU in `context`), broken, or no answer in time.
        """
        request_id = random_hex(8)
        content = {"execute": command, "arguments": dict(arguments or {}), "id": request_id}
        request = json.dumps(content).encode() + b"\n"
        async with self._turn:
            # After a failure, an answer that comes late would be taken for the next command's.
            with on_failure(self._socket.close):
                try:
                    async with asyncio.timeout(timeout_s):
                        await self._send(request, fds)
                        while True:
                            message = _object(await self._read_line())
                            if message.get("id") != request_id:
                                continue  # an event, or the answer to a command of a former connection
                            if "return" in message:
                                return message["return"]
                            if "error" in message:
                                break
                except (OSError, TimeoutError, ValueError, RecursionError) as error:
                    raise QmpError(
                        f"The VMM did not carry out {command}.", context={"command": command}
                    ) from error
        raise QmpError(f"The VMM refused {command}.", context={"command": command, "error": message["error"]})

    async def _send(self, data: bytes, fds: Sequence[int]) -> None:
        if fds:
            # Descriptors travel with the first byte; requests with descriptors are far smaller than the socket's buffer.
            sent = socket.send_fds(self._socket, [data], list(fds))
            data = data[sent:]
        await asyncio.get_running_loop().sock_sendall(self._socket, data)

    async def _read_line(self) -> bytes:
        # A VMM that floods us always has data ready, and a read that need not wait does not yield to the event loop.
        await asyncio.sleep(0)
        while (end := self._buffer.find(b"\n")) < 0:
            if len(self._buffer) > _LINE_LIMIT_B:
                raise QmpError("The VMM sent an over-long line.")
            await asyncio.sleep(0)
            chunk = await asyncio.get_running_loop().sock_recv(self._socket, _READ_B)
            if not chunk:
                raise ConnectionResetError("the VMM closed its control socket")
            self._buffer += chunk
        line = bytes(self._buffer[:end])
        del self._buffer[: end + 1]
        return line

    def close(self) -> None:
        """Close the connection; the VMM accepts a new one. A command under way fails."""
        if self._turn.locked():
            # Closed under a waiting read, its number could come to mean another socket, which then never wakes.
            with contextlib.suppress(OSError):
                self._socket.shutdown(socket.SHUT_RDWR)
        else:
            self._socket.close()


def _object(line: bytes) -> dict[str, Any]:
    message = json.loads(line)
    if not isinstance(message, dict):
        raise ValueError("a message is an object")
    return cast("dict[str, Any]", message)
