"""Connect RPC to envd: unary calls and server streams (single messages or batches), protobuf over HTTP/1.1.

The `connectrpc` client, which connects control plane and agent, is not used here: it reads a unary response
whole before it checks the size, and a guest may send anything. Protocol:
https://connectrpc.com/docs/protocol.
"""

from __future__ import annotations

import asyncio
import base64
import struct
import time
from collections.abc import AsyncGenerator, AsyncIterator, Generator, Mapping
from contextlib import asynccontextmanager, contextmanager
from functools import partial
from typing import Any, Final, TypeVar, cast

import aiohttp
from protobuf import Message

from wrenn.base import errors as e
from wrenn.base.request_ids import request_id_headers
from wrenn.base.secrets import Secret
from wrenn.base.units import KIB, MIB
from wrenn.guest.values import (
    DEFAULT_FIELD_LIMIT,
    decode_message,
    guest_text,
    json_object_or_empty,
)
from wrenn.linux.threads import run_to_end
from wrenn.relay import IgnoredCookies, Pace, PacedConnector, read_bounded

ENVD_PORT: Final = 49983
_MESSAGE_LIMIT_B: Final = 4 * MIB
_DECODED_AT_ONCE_B: Final = 4 * KIB
"""Longer responses are decoded in a thread, because that may take a while."""
_STREAM_FIELDS: Final = 32
"""More fields than any message of a stream has."""
_DECODING_TURN_S: Final = 0.002
"""How long messages of one stream are decoded in a row before other tasks run."""
_ERROR_LIMIT_B: Final = 64 * 1024
_CONNECTIONS: Final = 320
"""Concurrent streams and calls to one guest, which accepts 512; further ones wait."""
STREAM_LIMIT: Final = 128
"""Concurrent streams to processes of one guest, and watches of its files. Each may have one call that sends input, so other calls
always find a connection."""
_BATCH_MESSAGE_LIMIT_B: Final = 256 * KIB
_BATCH_READ_B: Final = 256 * KIB
"""Bytes read ahead of the consumer of a stream; up to twice as many are delivered at once."""
_BATCH_LENGTH: Final = 512
"""Messages decoded in a row before other tasks run: a guest may send any number of empty messages."""
_FRAME_HEAD: Final = struct.Struct(">BI")
_END_OF_STREAM: Final = 0x02
_HEADERS_TIMEOUT_S: Final = 60.0
"""Until a guest begins to answer a call whose answer is a stream. Callers with less time set a deadline of their own."""

Answer = TypeVar("Answer", bound=Message[Any])

_CODES: Final[dict[str, type[e.WrennError]]] = {
    "invalid_argument": e.InvalidRequest,
    "unauthenticated": e.InvalidRequest,  # an unknown user name; our own token is always valid
    "not_found": e.NotFound,
    "already_exists": e.Conflict,
    "failed_precondition": e.InvalidState,
    "permission_denied": e.Forbidden,
    "resource_exhausted": e.TooLarge,
    "deadline_exceeded": e.DeadlineExceeded,
    "unavailable": e.Unavailable,
}
_REASONS: Final[dict[str, type[e.WrennError]]] = {"storage_full": e.StorageFull}
"""By reason, which has precedence over the code."""
_REASON_LIMIT: Final = 200
_OK: Final = 200
_NOT_FOUND: Final = 404


class GuestConnection:
    """The connection pool for one boot or restore of a guest: a restored VM gets a new one."""

    def __init__(self, address: str, token: Secret) -> None:
        self.base_url = f"http://{address}:{ENVD_PORT}"
        self._streams = 0
        self._decoding = asyncio.Lock()
        self.inspecting = asyncio.Lock()
        """Held while its programs or ports are read: one answer at a time."""
        self._headers = {"X-Access-Token": token.reveal()}
        self.pace = Pace()
        self._connector = PacedConnector(
            self.pace, limit=_CONNECTIONS, keepalive_timeout=60, use_dns_cache=False
        )
        self.session = aiohttp.ClientSession(
            connector=self._connector,
            auto_decompress=False,
            cookie_jar=IgnoredCookies(),
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=5),
            trust_env=False,
        )

    async def close(self) -> None:
        """Close all connections without waiting for calls in progress."""
        self._connector.cut()
        await self.session.close()

    def _check_open(self) -> None:
        if self.session.closed:
            raise e.Unavailable("The connection to the sandbox was closed.")

    def headers(self, user: str) -> dict[str, str]:
        """Return the authentication headers for a call as `user`."""
        basic = base64.b64encode(f"{user}:".encode()).decode()
        return {**self._headers, **request_id_headers(), "Authorization": f"Basic {basic}"}

    async def unary(
        self,
        method: str,
        request: Message[Any],
        answer: type[Answer],
        *,
        user: str,
        timeout_s: float | None,
        field_limit: int = DEFAULT_FIELD_LIMIT,
    ) -> Answer:
        """Call `method` ("process.Process/List"). `field_limit` limits the fields of the response, nested messages included.

        Raises:
            Unavailable: no response, or none in time.
            WrennError: the error for the guest's Connect code.
        """
        headers = {**self.headers(user), "Content-Type": "application/proto", "Connect-Protocol-Version": "1"}
        self._check_open()
        try:
            async with asyncio.timeout(timeout_s):
                async with self.session.post(
                    f"{self.base_url}/{method}",
                    data=request.to_binary(),
                    headers=headers,
                    allow_redirects=False,
                ) as response:
                    if response.status != 200:
                        raise _error_of(
                            json_object_or_empty(
                                await read_bounded(response, _ERROR_LIMIT_B, sender="sandbox")
                            ),
                            response.status,
                        )
                    body = await read_bounded(response, _MESSAGE_LIMIT_B, sender="sandbox")
                decode = partial(decode_message, answer, body, field_limit=field_limit)
                if len(body) <= _DECODED_AT_ONCE_B:
                    return decode()
                # In a thread, so that other tasks can run; one at a time for each guest.
                async with self._decoding:
                    return await run_to_end(decode)
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise unreachable(error) from error

    async def get(self, path: str, *, timeout_s: float, limit_b: int) -> bytes:
        """Return what one of the guest agent's plain HTTP endpoints answers.

        Raises:
            InvalidState: the guest agent does not know the path, as it is of an older release.
            Unavailable: no response, or none in time. AgentFailure: another status, or too many bytes.
        """
        try:
            async with (
                asyncio.timeout(timeout_s),
                self.session.get(
                    f"{self.base_url}{path}", headers=self.headers("root"), allow_redirects=False
                ) as response,
            ):
                body = await read_bounded(response, limit_b, sender="sandbox")
                status = response.status
        except (aiohttp.ClientError, TimeoutError, OSError, RuntimeError) as error:
            # RuntimeError: a pause has closed the session.
            raise unreachable(error) from error
        if status == _NOT_FOUND:
            raise e.InvalidState(
                "The guest agent of this sandbox is of an older release, which cannot do this. Create the sandbox anew."
            )
        if status != _OK:
            raise e.AgentFailure(f"The sandbox answered with status {status}.")
        return body

    @asynccontextmanager
    async def stream(
        self,
        method: str,
        request: Message[Any],
        answer: type[Answer],
        *,
        user: str,
        headers: Mapping[str, str] | None = None,
    ) -> AsyncGenerator[AsyncIterator[Answer]]:
        """Call a server-streaming `method` and yield its messages. Leaving the context closes the stream; the caller sets deadlines.

        Raises:
            WrennError: as for `unary`, on entering and while reading.
        """
        async with self._opened(method, request, user=user, headers=headers) as response:
            yield _frames(response.content, answer, self.pace)

    @asynccontextmanager
    async def batches(
        self,
        method: str,
        request: Message[Any],
        answer: type[Answer],
        *,
        user: str,
        headers: Mapping[str, str] | None = None,
    ) -> AsyncGenerator[AsyncIterator[list[Answer]]]:
        """As `stream`, for long or fast streams: yields all messages that have arrived, each of at most 256 KiB.

        Raises:
            RateLimited: `STREAM_LIMIT` streams are open.
            WrennError: as for `unary`, on entering and while reading.
        """
        with self.long_stream():
            async with self._opened(method, request, user=user, headers=headers) as response:
                yield _batches(response.content, answer, self.pace)

    @contextmanager
    def long_stream(self) -> Generator[None]:
        """Count a stream that may stay open for long.

        Raises:
            RateLimited: `STREAM_LIMIT` streams are open.
        """
        if self._streams >= STREAM_LIMIT:
            raise e.RateLimited(f"{STREAM_LIMIT} streams of this sandbox are open already: close one first.")
        self._streams += 1
        try:
            yield
        finally:
            self._streams -= 1

    @asynccontextmanager
    async def _opened(
        self, method: str, request: Message[Any], *, user: str, headers: Mapping[str, str] | None
    ) -> AsyncGenerator[aiohttp.ClientResponse]:
        body = request.to_binary()
        all_headers = {
            **self.headers(user),
            "Content-Type": "application/connect+proto",
            "Connect-Protocol-Version": "1",
            **(headers or {}),
        }
        self._check_open()
        try:
            async with asyncio.timeout(_HEADERS_TIMEOUT_S):
                response = await self.session.post(
                    f"{self.base_url}/{method}",
                    data=_FRAME_HEAD.pack(0, len(body)) + body,
                    headers=all_headers,
                    allow_redirects=False,
                    read_bufsize=_BATCH_READ_B,
                )
            async with response:
                if response.status != 200:
                    raise _error_of(
                        json_object_or_empty(await read_bounded(response, _ERROR_LIMIT_B, sender="sandbox")),
                        response.status,
                    )
                yield response
        except (aiohttp.ClientError, TimeoutError, asyncio.IncompleteReadError, OSError) as error:
            raise unreachable(error) from error


async def _frames(content: aiohttp.StreamReader, answer: type[Answer], pace: Pace) -> AsyncIterator[Answer]:
    while True:
        flags, size = _FRAME_HEAD.unpack(await content.readexactly(_FRAME_HEAD.size))
        _check_size(size, _MESSAGE_LIMIT_B)
        body = await content.readexactly(size)
        # Reading buffered data does not yield to the event loop, so without this no deadline would take
        # effect.
        await pace.passed(size_b=size)
        if _is_end(flags, body):
            return
        yield decode_message(answer, body, field_limit=_STREAM_FIELDS)


async def _batches(
    content: aiohttp.StreamReader, answer: type[Answer], pace: Pace
) -> AsyncIterator[list[Answer]]:
    unread = bytearray()
    while True:
        batch: list[Answer] = []
        began_s, begin_b = time.perf_counter(), len(unread)
        while len(unread) >= _FRAME_HEAD.size and len(batch) < _BATCH_LENGTH:
            flags, size = _FRAME_HEAD.unpack_from(unread)
            _check_size(size, _BATCH_MESSAGE_LIMIT_B)
            end = _FRAME_HEAD.size + size
            if len(unread) < end:
                break
            body = bytes(memoryview(unread)[_FRAME_HEAD.size : end])
            del unread[:end]
            try:
                is_end = _is_end(flags, body)
            except e.WrennError:
                # Messages before the error are output that the process has written.
                if batch:
                    yield batch
                raise
            if is_end:
                yield batch
                return
            batch.append(decode_message(answer, body, field_limit=_STREAM_FIELDS))
            if time.perf_counter() - began_s > _DECODING_TURN_S:
                break
        pace.charge(time.perf_counter() - began_s)
        if batch:
            yield batch
            await pace.passed(size_b=begin_b - len(unread))
            continue
        chunk = await content.readany()
        if not chunk:
            raise asyncio.IncompleteReadError(bytes(unread[: _FRAME_HEAD.size]), None)
        unread += chunk


def _check_size(size: int, limit_b: int) -> None:
    if size > limit_b:
        raise e.AgentFailure("The sandbox sent an over-long message.", context={"size": size})


def _is_end(flags: int, body: bytes) -> bool:
    """Whether this frame ends the stream. Raises the error that the guest reports."""
    if flags & _END_OF_STREAM:
        end = json_object_or_empty(body)
        if "error" in end:
            raise _error_of(end["error"], 200)
        return True
    if flags:
        raise e.AgentFailure("The sandbox sent a message with unknown flags.", context={"flags": flags})
    return False


def _error_of(said: object, status: int) -> e.WrennError:
    answer = cast("dict[str, Any]", said) if isinstance(said, dict) else {}
    text = guest_text(answer.get("message")) or f"The sandbox answered with status {status}."
    code = guest_text(answer.get("code"))
    kind = _REASONS.get(_reason_of(answer)) or _CODES.get(code, e.AgentFailure)
    return kind(text, context={"status": status})


def _reason_of(answer: dict[str, Any]) -> str:
    """Return the reason in an error of our guest agent, which is the error's only detail and refines its code."""
    match answer.get("details"):
        case [{"type": "google.protobuf.StringValue", "value": str(value)}] if len(value) <= _REASON_LIMIT:
            try:
                # After the tag of field 1 and one byte of length.
                return base64.b64decode(value + "=" * (-len(value) % 4))[2:].decode()
            except ValueError:
                return ""
        case _:
            return ""


def unreachable(error: BaseException) -> e.WrennError:
    """Translate a failed or broken connection to the guest agent."""
    return e.Unavailable(
        "The sandbox does not answer; it may be overloaded or have ended.",
        context={"cause": e.cause_of(error)},
    )
