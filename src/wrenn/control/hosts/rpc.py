"""Calls of the agents' RPC interface: the Connect protocol's unary calls (https://connectrpc.com/docs/protocol)."""

from __future__ import annotations

import asyncio
import json
import logging
from typing import Any, Final, TypeVar, cast

import aiohttp
from protobuf import Message

from wrenn.base.errors import AgentFailure, DeadlineExceeded, WrennError
from wrenn.base.units import KIB, MIB
from wrenn.control.hosts.messages import clean_text, decoded
from wrenn.control.hosts.transport import HostConnection
from wrenn.protocol.api import OUTPUT_LIMIT_B
from wrenn.protocol.host.errors import ERROR_CODE_HEADER, MethodUnknown, error_of
from wrenn.relay import read_bounded

_log = logging.getLogger(__name__)

_SERVICE: Final = "wrenn.host.v1.HostAgent"
_ANSWER_LIMIT_B: Final = 4 * MIB
_LARGE_ANSWERS_B: Final = {"Exec": 2 * OUTPUT_LIMIT_B + 4 * MIB, "ListDir": 16 * MIB}
_DECODED_AT_ONCE_B: Final = 4 * KIB
"""A larger answer is decoded in a thread, so that other requests go on meanwhile: 4 KiB of empty entries take 5 ms."""
_ERROR_LIMIT_B: Final = 64 * KIB
_SERVER_ERROR: Final = 500
_NOT_FOUND: Final = 404
_ERROR_TEXT_LIMIT: Final = 4_000
"""Characters of an error's text; the rest is cut. It may quote a path, which is at most 4,096 bytes."""

Answer = TypeVar("Answer", bound=Message[Any])


class HostRpc:
    """The RPC interface of one agent."""

    def __init__(self, connection: HostConnection) -> None:
        self._connection = connection

    async def call(
        self, method: str, request: Message[Any], answer: type[Answer], *, timeout_s: float
    ) -> Answer:
        """Call `method` ("RemoveSandbox").

        Raises:
            WrennError: what the agent said. Unavailable, DeadlineExceeded: it did not answer.
            AgentFailure: its answer cannot be read.
        """
        try:
            async with asyncio.timeout(timeout_s):
                return await self._call(method, request, answer, timeout_s)
        except WrennError as error:
            error.context.setdefault("host", self._connection.endpoint.address)
            if error.http_status >= _SERVER_ERROR:
                # An agent that is stopping says so; what it was asked for is not done.
                self._connection.failures += 1
            raise
        except (aiohttp.ClientError, ConnectionError) as error:
            raise self._connection.not_answering(error) from error
        except TimeoutError as error:
            self._connection.failures += 1
            raise DeadlineExceeded(
                f"The host did not answer within {timeout_s:.0f} s.",
                context={"host": self._connection.endpoint.address},
            ) from error
        except OSError as error:
            raise self._connection.not_answering(error) from error

    async def _call(
        self, method: str, request: Message[Any], answer: type[Answer], timeout_s: float
    ) -> Answer:
        response = await self._connection.request(
            "POST",
            self._connection.url(f"/{_SERVICE}/{method}"),
            data=request.to_binary(),
            headers={
                "Content-Type": "application/proto",
                "Connect-Protocol-Version": "1",
                "Connect-Timeout-Ms": str(int(timeout_s * 1000)),
            },
        )
        try:
            if response.status != 200:
                error = _error_of(response, await read_bounded(response, _ERROR_LIMIT_B, sender="host"))
                _log.debug("host refused a call", extra={"method": method, "code": error.code})
                raise error
            limit_b = _LARGE_ANSWERS_B.get(method, _ANSWER_LIMIT_B)
            body = await read_bounded(response, limit_b, sender="host")
            if len(body) <= _DECODED_AT_ONCE_B:
                return decoded(answer, body)
            return await asyncio.to_thread(decoded, answer, body)
        finally:
            # A connection whose response was read to its end is back in the pool already.
            response.close()


def _error_of(response: aiohttp.ClientResponse, body: bytes) -> WrennError:
    wrenn_code = response.headers.get(ERROR_CODE_HEADER, "")
    try:
        error = cast("dict[str, Any]", json.loads(body))
        text = clean_text(str(error.get("message", "")), _ERROR_TEXT_LIMIT)
        return error_of(str(error["code"]), text, wrenn_code=wrenn_code)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        if response.status == _NOT_FOUND:
            return MethodUnknown("The host's agent does not know this call.")
        return AgentFailure(
            "The host refused the call without a reason.", context={"status": response.status}
        )
