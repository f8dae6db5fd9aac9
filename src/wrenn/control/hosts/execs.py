"""Runs commands to their end through a host's agent: `POST /sandboxes/{id}/exec` (docs/design/host-api.md)."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final

import aiohttp

from wrenn.base.errors import AgentFailure, DeadlineExceeded, Unavailable
from wrenn.base.ids import SandboxId
from wrenn.control.hosts.transport import HostConnection
from wrenn.protocol.host.streams import (
    MESSAGE_HEAD,
    MESSAGE_LIMIT_B,
    OUTPUTS,
    Kind,
    ProcessEnd,
    StartProcess,
    open_message,
    parse_end,
    parse_failure,
)

EXEC_MARGIN_S: Final = 13.0
"""How much longer than the command's own limit the agent may take to kill it and say so: up to 8 s when the guest does not answer, and
clients wait 15 s."""
_OLD_AGENT: Final = frozenset({400, 404, 405})


class ExecNotSupported(AgentFailure):
    """The agent is too old to support this call."""


class HostNotResponding(DeadlineExceeded):
    """The host did not answer within the command's time limit and a margin."""


class Execs:
    """Runs commands in the sandboxes of one host."""

    def __init__(self, connection: HostConnection) -> None:
        self._connection = connection

    async def run(
        self, sandbox_id: SandboxId, start: StartProcess, take: Callable[[Kind, bytes], None]
    ) -> ProcessEnd:
        """Run a command to its end, and pass what it writes to `take`.

        When `take` raises, and after a cancellation, the command is killed.

        Raises:
            WrennError: what the agent said. DeadlineExceeded: the command was killed because its time was up.
            HostNotResponding, Unavailable: the host does not answer. ExecNotSupported: its agent is an older one.
        """
        timeout_s = start.timeout_ms / 1000 + EXEC_MARGIN_S
        try:
            async with asyncio.timeout(timeout_s):
                return await self._run(sandbox_id, start, take)
        except aiohttp.ServerTimeoutError as error:
            raise self._connection.not_answering(error) from error
        except TimeoutError as error:
            raise HostNotResponding(f"The host did not answer within {timeout_s:.0f} s.") from error
        except asyncio.IncompleteReadError as error:
            raise Unavailable("The host of this sandbox broke the call off.") from error
        except (aiohttp.ClientError, OSError) as error:
            raise self._connection.not_answering(error) from error

    async def _run(
        self, sandbox_id: SandboxId, start: StartProcess, take: Callable[[Kind, bytes], None]
    ) -> ProcessEnd:
        response = await self._connection.request(
            "POST",
            self._connection.url(f"/sandboxes/{sandbox_id}/exec"),
            data=open_message(str(sandbox_id), start)[1:],
            headers={"Content-Type": "application/octet-stream"},
        )
        try:
            if response.status in _OLD_AGENT:
                raise ExecNotSupported("The host's agent does not know this call.")
            if response.status != 200:
                raise AgentFailure("The host refused the command.", context={"status": response.status})
            while True:
                message = await _message(response.content)
                kind, payload = message[0], message[1:]
                if kind in OUTPUTS:
                    take(Kind(kind), payload)
                elif kind == Kind.EXITED:
                    # Behind the last message comes nothing, and a connection that has ended is used again.
                    await response.content.read()
                    return parse_end(payload)
                elif kind == Kind.FAILED:
                    await response.content.read()
                    raise parse_failure(payload)
        finally:
            response.close()


async def _message(content: aiohttp.StreamReader) -> bytes:
    (length,) = MESSAGE_HEAD.unpack(await content.readexactly(MESSAGE_HEAD.size))
    if not 0 < length <= MESSAGE_LIMIT_B:
        raise AgentFailure("The host sent a message that cannot be read.")
    return await content.readexactly(length)
