"""Calls the agent of this machine over its local socket, without certificates; for root only."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any, Final, TypeVar

import aiohttp
from protobuf import Message

from wrenn.base.errors import AgentFailure, DeadlineExceeded, Unavailable
from wrenn.base.units import MIB
from wrenn.protocol.host import host_pb as pb
from wrenn.relay import read_bounded

SOCKET: Final = "agent.sock"
"""Its name in the data folder."""
_SERVICE: Final = "wrenn.host.v1.HostAgent"
_ANSWER_LIMIT_B: Final = 64 * MIB
_CALL_TIMEOUT_S: Final = 10.0
_POLL_S: Final = 0.1

Answer = TypeVar("Answer", bound=Message[Any])


async def agent_answers(data_dir: Path, *, timeout_s: float) -> bool:
    """Whether the agent of this data folder serves, which it does only after its registration and recovery."""
    try:
        await _get_host(data_dir, timeout_s=timeout_s)
    except (Unavailable, DeadlineExceeded, AgentFailure):
        return False
    return True


async def wait_warm(data_dir: Path) -> str:
    """Wait until the agent has booted its default template, without a time limit; returns the reason if it failed.

    Raises:
        Unavailable, DeadlineExceeded: the agent does not respond.
    """
    while True:
        host = await _get_host(data_dir, timeout_s=_CALL_TIMEOUT_S)
        if not host.warming_up:
            return host.warm_up_failure
        await asyncio.sleep(_POLL_S)


async def _get_host(data_dir: Path, *, timeout_s: float) -> pb.Host:
    return await call(data_dir / SOCKET, "GetHost", pb.GetHostRequest(), pb.Host, timeout_s=timeout_s)


async def call(
    path: Path, method: str, request: Message[Any], answer: type[Answer], *, timeout_s: float
) -> Answer:
    """Call a method of the agent whose socket is at `path`.

    Raises:
        Unavailable, DeadlineExceeded: no agent answers there. AgentFailure: it refused the call.
    """
    try:
        async with (
            asyncio.timeout(timeout_s),
            aiohttp.ClientSession(connector=aiohttp.UnixConnector(str(path))) as session,
            session.post(
                f"http://agent/{_SERVICE}/{method}",
                data=request.to_binary(),
                headers={"Content-Type": "application/proto", "Connect-Protocol-Version": "1"},
            ) as response,
        ):
            content = await read_bounded(response, _ANSWER_LIMIT_B, sender="agent")
            if response.status != 200:
                raise AgentFailure(f"The agent refused {method} with the status {response.status}.")
            return answer.from_binary(content)
    except TimeoutError as error:
        raise DeadlineExceeded(f"The agent did not answer within {timeout_s:.0f} s.") from error
    except (aiohttp.ClientError, OSError) as error:
        raise Unavailable(f"The agent does not answer at {path}: {error}.") from error
