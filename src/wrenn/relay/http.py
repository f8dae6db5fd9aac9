"""Proxies one HTTP request: forwards its head, streams its body, and streams the response back."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Final

import aiohttp
from yarl import URL

from wrenn.base.errors import AgentFailure
from wrenn.base.units import KIB
from wrenn.relay.asgi import CallerDisconnected, Receive, Scope, Send, cancel_on_disconnect
from wrenn.relay.headers import Headers, end_to_end, for_client, header_value, is_sound

SMALL_BODY_B: Final = 64 * KIB
"""A body up to this size is read before it is forwarded, so that it takes one packet and can be sent again."""
BODY_SILENCE_S: Final = 90.0
"""A client that sends nothing of its body for this long is given up, unless its server has closed the
connection before."""
READER_STALL_S: Final = 600.0
"""A client that takes nothing of its response for this long is given up."""
_NO_BODY: Final = frozenset({204, 304})

Traffic = Callable[[], None]
"""Called whenever bytes are forwarded, in either direction."""


class IncompleteResponse(ConnectionResetError):
    """The response ended early after its head was sent. The connection is closed, so that the client notices."""


@dataclass(frozen=True, slots=True)
class Head:
    """Status and headers of a response, without hop-by-hop headers."""

    status: int
    headers: Headers


class Request:
    """A client's request that is being forwarded. Its body can be sent once, or repeatedly if it is small.

    Attributes:
        is_replayable: nothing of the body has been sent that could not be sent again.
    """

    def __init__(self, scope: Scope, receive: Receive, traffic: Traffic = lambda: None) -> None:
        self._scope = scope
        self._receive = receive
        self._traffic = traffic
        self._small: bytes | None = b""
        self._was_read = asyncio.Event()
        self.is_replayable = True

    async def read_small_body(self) -> None:
        """Read the body if it is small; otherwise it is streamed later. The server has checked its length.

        Raises:
            CallerDisconnected: the client disconnected.
        """
        headers: Headers = self._scope["headers"]
        length = header_value(headers, b"content-length") or b"0"
        if header_value(headers, b"transfer-encoding") is not None or int(length[:19]) > SMALL_BODY_B:
            self._small = None
            return
        if int(length):
            self._small = b"".join([chunk async for chunk in self._chunks()])
        self._was_read.set()

    async def _chunks(self) -> AsyncIterator[bytes]:
        while True:
            try:
                async with asyncio.timeout(BODY_SILENCE_S):
                    message = await self._receive()
            except TimeoutError as error:
                raise CallerDisconnected from error
            if message["type"] == "http.disconnect":
                raise CallerDisconnected
            if chunk := message.get("body"):
                self._traffic()
                yield chunk
            if not message.get("more_body"):
                self._was_read.set()
                return

    async def _streamed(self, gone: list[CallerDisconnected]) -> AsyncIterator[bytes]:
        self.is_replayable = False
        try:
            async for chunk in self._chunks():
                yield chunk
        except CallerDisconnected as error:
            # aiohttp would raise it as an error of its own.
            gone.append(error)
            raise

    @asynccontextmanager
    async def asked(
        self,
        session: aiohttp.ClientSession,
        url: URL,
        headers: Headers,
        *,
        tls: ssl.SSLContext | bool = True,
        server_name: str | None = None,
    ) -> AsyncGenerator[aiohttp.ClientResponse]:
        """Send this request to `url` and yield the response, whose body is not read yet. Leaving the block ends the exchange.

        `server_name`: the name that the server's certificate must have; None: that of the URL.

        Raises:
            CallerDisconnected: the client disconnected, possibly while the block runs.
            aiohttp.ClientError, OSError: the exchange failed.
        """
        gone: list[CallerDisconnected] = []
        data = self._small or None if self._small is not None else self._streamed(gone)
        response = None
        try:
            async with cancel_on_disconnect(self._receive, after=self._was_read):
                try:
                    response = await session.request(
                        self._scope["method"],
                        url,
                        data=data,
                        headers=for_client(headers),
                        allow_redirects=False,
                        ssl=tls,
                        server_hostname=server_name,
                    )
                except aiohttp.ClientError:
                    if gone:
                        raise gone[0] from None
                    raise
                yield response
        finally:
            if response is not None:
                # If the response was read to its end, the connection is back in the pool already and stays
                # open.
                response.close()


def head_of(response: aiohttp.ClientResponse) -> Head:
    """Return the validated head: whoever receives it must parse it as we did.

    Raises:
        AgentFailure: the head cannot be forwarded.
    """
    if not 200 <= response.status <= 599:
        raise _unsound(f"its status is {response.status}")
    headers = end_to_end(response.raw_headers)
    if not all(is_sound(name, value) for name, value in headers):
        raise _unsound("a header of it is malformed")
    lengths = {value for name, value in headers if name == b"content-length"}
    if lengths:
        if len(lengths) > 1 or not next(iter(lengths)).isdigit():
            raise _unsound("its length is not clear")
        headers = [(name, value) for name, value in headers if name != b"content-length"]
        chunked = "Transfer-Encoding" in response.headers
        if not chunked and response.status not in _NO_BODY:
            headers.append((b"content-length", lengths.pop()))
    return Head(response.status, headers)


def _unsound(why: str) -> AgentFailure:
    return AgentFailure(f"The program in the sandbox sent no valid HTTP answer: {why}.")


async def read_bounded(response: aiohttp.ClientResponse, limit_b: int, *, sender: str) -> bytes:
    """Return the whole body of a response to ourselves.

    Raises:
        AgentFailure: it is longer than `limit_b`; the message names the `sender`. The connection is closed.
    """
    body = bytearray()
    async for chunk in response.content.iter_any():
        body += chunk
        if len(body) > limit_b:
            response.close()
            raise AgentFailure(f"The {sender} sent an over-long answer.", context={"limit_b": limit_b})
    return bytes(body)


async def send_response(response: aiohttp.ClientResponse, head: Head, send: Send, traffic: Traffic) -> None:
    """Stream the response to the client.

    Raises:
        IncompleteResponse: the response ended early, or the client does not take it.
    """
    await send({"type": "http.response.start", "status": head.status, "headers": head.headers})
    try:
        async for chunk in response.content.iter_any():
            traffic()
            async with asyncio.timeout(READER_STALL_S):
                await send({"type": "http.response.body", "body": chunk, "more_body": True})
    except (aiohttp.ClientError, TimeoutError, OSError) as error:
        raise IncompleteResponse(f"the answer broke off: {error!r}") from error
    await send({"type": "http.response.body", "body": b""})
