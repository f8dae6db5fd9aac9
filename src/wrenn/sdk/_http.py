"""The only module that uses the HTTP client: requests, responses, timeouts, translation of errors.

`AsyncTransport` and `Transport` are counterparts. Each owns a connection pool that is opened on first use,
and again after `close()`. Whether a request may be repeated is decided in `_async/api.py`.
"""

from __future__ import annotations

import asyncio
import ssl
import threading
import time
from collections.abc import AsyncIterable, AsyncIterator, Generator, Iterator
from contextlib import contextmanager
from http.cookiejar import CookieJar, DefaultCookiePolicy
from typing import Final

import httpx2

from wrenn.sdk._messages import Answer, Request
from wrenn.sdk.errors import (
    ConnectionFailedError,
    DeadlineExceededError,
    InvalidRequestError,
    UnexpectedAnswerError,
)
from wrenn.sdk.settings import ClientSettings

CONNECT_TIMEOUT_S: Final = 5.0
"""Longest time to establish a connection."""
_NEXT_CURSOR: Final = "X-Next-Cursor"
_SOURCE: Final = "X-Wrenn-Source"
"""The platform sets it to `sandbox` on what a program in a sandbox answered."""
_ENCODED: Final = (
    "The response is compressed, which the client did not ask for: the cause may be a proxy in between."
)


@contextmanager
def _translated(base_url: str) -> Generator[None]:
    """Translate httpx's errors to ours."""
    try:
        yield
    except (httpx2.ConnectError, httpx2.ConnectTimeout, httpx2.PoolTimeout) as error:
        raise ConnectionFailedError(
            f"The platform at {base_url} cannot be reached: {error or 'no connection in time'}.",
            request_sent=False,
        ) from error
    except (httpx2.TimeoutException, TimeoutError) as error:
        raise DeadlineExceededError(f"The platform at {base_url} did not answer in time.") from error
    except UnicodeEncodeError as error:
        raise InvalidRequestError("The request has characters that are not valid UTF-8.") from error
    except (httpx2.InvalidURL, httpx2.UnsupportedProtocol, httpx2.LocalProtocolError) as error:
        raise InvalidRequestError(f"The request cannot be sent: {error}.") from error
    except (httpx2.TransportError, httpx2.StreamError) as error:
        raise ConnectionFailedError(
            f"The connection to the platform at {base_url} broke: {error or 'closed by the other side'}.",
            request_sent=True,
        ) from error


def _tls(settings: ClientSettings) -> ssl.SSLContext | bool:
    # Loading the machine's certificates takes 20 ms. Without TLS an empty context is sufficient.
    return True if settings.base_url.startswith("https:") else ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)


def _headers(settings: ClientSettings) -> dict[str, str]:
    return {**settings.credentials, "User-Agent": "wrenn-python", "Accept-Encoding": "identity"}


def _no_cookies() -> CookieJar:
    # Programs in sandboxes answer on the same host name: cookies of theirs would go along with every later call.
    return CookieJar(DefaultCookiePolicy(allowed_domains=[]))


def _limits(timeout_s: float) -> httpx2.Timeout:
    return httpx2.Timeout(timeout_s, connect=min(CONNECT_TIMEOUT_S, timeout_s))


def _request_id(response: httpx2.Response) -> str | None:
    return response.headers.get("x-request-id")


def _is_encoded(response: httpx2.Response) -> bool:
    # Some bytes of a compressed body may become any number of bytes, all at once. A program in a sandbox could use that.
    return response.headers.get("content-encoding", "identity").strip().lower() not in ("", "identity")


class _Body:
    """Collects a body up to a limit of bytes, until a deadline.

    Raises:
        UnexpectedAnswerError: it is longer. TimeoutError: it has not ended in time.
    """

    def __init__(self, *, limit_b: int, timeout_s: float) -> None:
        self._pieces: list[bytes] = []
        self._left_b = limit_b
        self._deadline = time.monotonic() + timeout_s

    def add(self, piece: bytes) -> None:
        """Take the next piece."""
        self._left_b -= len(piece)
        if self._left_b < 0:
            raise UnexpectedAnswerError("The response is too long.")
        if time.monotonic() > self._deadline:
            raise TimeoutError
        self._pieces.append(piece)

    def content(self) -> bytes:
        """Return all pieces."""
        return b"".join(self._pieces)


class _Head:
    """What is known of a response before its body."""

    def __init__(self, response: httpx2.Response, base_url: str) -> None:
        self._response = response
        self._base_url = base_url
        self.status = response.status_code
        self.request_id = _request_id(response)
        self.set_cookie = response.headers.get("set-cookie")
        self.is_from_sandbox = response.headers.get(_SOURCE) == "sandbox"

    def header(self, name: str) -> str:
        """Return a header of the response, or an empty string."""
        return self._response.headers.get(name, "")

    def answer(self, body: bytes) -> Answer:
        """Return the complete response, of which this is the body."""
        return Answer(
            self.status,
            self.request_id,
            body,
            self.set_cookie,
            self.header(_NEXT_CURSOR),
            self.is_from_sandbox,
        )


class AsyncStream(_Head):
    """A response whose body is streamed."""

    async def chunks(self) -> AsyncIterator[bytes]:
        """Yield the body as it arrives. Raises `ConnectionFailedError` if it ends early."""
        with _translated(self._base_url):
            async for chunk in self._response.aiter_raw():
                yield chunk

    async def body(self, *, limit_b: int, timeout_s: float) -> bytes:
        """Return the whole body.

        Raises:
            UnexpectedAnswerError: it is longer than `limit_b`. DeadlineExceededError: it did not end within `timeout_s`.
        """
        body = _Body(limit_b=limit_b, timeout_s=timeout_s)
        with _translated(self._base_url):
            async with asyncio.timeout(timeout_s):
                async for chunk in self.chunks():
                    body.add(chunk)
        return body.content()

    async def close(self) -> None:
        """Return the connection to the pool. Idempotent."""
        await self._response.aclose()


class AsyncTransport:
    """Sends requests on a connection pool of the running event loop."""

    def __init__(self, settings: ClientSettings) -> None:
        self._settings = settings
        self._client: httpx2.AsyncClient | None = None

    def _pool(self) -> httpx2.AsyncClient:
        if self._client is None:
            self._client = httpx2.AsyncClient(
                headers=_headers(self._settings),
                verify=_tls(self._settings),
                trust_env=not self._settings.is_local,
                cookies=_no_cookies(),
            )
        return self._client

    async def open(self, request: Request, *, idle_timeout_s: float) -> AsyncStream:
        """Send the request and return once the head of the response arrived. `idle_timeout_s` limits each wait on the network."""
        with _translated(self._settings.base_url):
            pool = self._pool()
            message = pool.build_request(
                request.method,
                self._settings.base_url + request.path,
                params=request.params,
                headers=request.headers,
                json=request.json,
                content=request.content,
                timeout=_limits(idle_timeout_s),
            )
            response = await pool.send(message, stream=True)
            if _is_encoded(response):
                await response.aclose()
                raise UnexpectedAnswerError(_ENCODED)
            return AsyncStream(response, self._settings.base_url)

    async def exchange(self, request: Request, *, timeout_s: float) -> Answer:
        """Send the request and return the complete response, within `timeout_s`."""
        with _translated(self._settings.base_url):
            async with asyncio.timeout(timeout_s):
                stream = await self.open(request, idle_timeout_s=timeout_s)
                try:
                    body = await stream.body(limit_b=request.answer_limit_b, timeout_s=timeout_s)
                finally:
                    await stream.close()
        return stream.answer(body)

    async def close(self) -> None:
        """Close idle connections; the next request opens new ones."""
        client, self._client = self._client, None
        if client is not None:
            await client.aclose()


class Stream(_Head):
    """A response whose body is streamed."""

    def chunks(self) -> Iterator[bytes]:
        """Yield the body as it arrives. Raises `ConnectionFailedError` if it ends early."""
        with _translated(self._base_url):
            yield from self._response.iter_raw()

    def body(self, *, limit_b: int, timeout_s: float) -> bytes:
        """Return the whole body. A single read cannot be interrupted, so it may take up to twice as long.

        Raises:
            UnexpectedAnswerError: it is longer than `limit_b`. DeadlineExceededError: it did not end within `timeout_s`.
        """
        body = _Body(limit_b=limit_b, timeout_s=timeout_s)
        with _translated(self._base_url):
            for chunk in self.chunks():
                body.add(chunk)
        return body.content()

    def close(self) -> None:
        """Return the connection to the pool. Idempotent."""
        self._response.close()


class Transport:
    """Sends requests on a connection pool. Thread-safe."""

    def __init__(self, settings: ClientSettings) -> None:
        self._settings = settings
        self._client: httpx2.Client | None = None
        self._client_lock = threading.Lock()

    def _pool(self) -> httpx2.Client:
        with self._client_lock:
            if self._client is None:
                self._client = httpx2.Client(
                    headers=_headers(self._settings),
                    verify=_tls(self._settings),
                    trust_env=not self._settings.is_local,
                    cookies=_no_cookies(),
                )
            return self._client

    def open(self, request: Request, *, idle_timeout_s: float) -> Stream:
        """Send the request and return once the head of the response arrived. `idle_timeout_s` limits each wait on the network."""
        assert not isinstance(request.content, AsyncIterable), (
            "an asynchronous body in the synchronous client"
        )
        with _translated(self._settings.base_url):
            pool = self._pool()
            message = pool.build_request(
                request.method,
                self._settings.base_url + request.path,
                params=request.params,
                headers=request.headers,
                json=request.json,
                content=request.content,
                timeout=_limits(idle_timeout_s),
            )
            response = pool.send(message, stream=True)
            if _is_encoded(response):
                response.close()
                raise UnexpectedAnswerError(_ENCODED)
            return Stream(response, self._settings.base_url)

    def exchange(self, request: Request, *, timeout_s: float) -> Answer:
        """Send the request and return the complete response, within `timeout_s`.

        A single read cannot be interrupted, so a response that arrives very slowly may take up to twice as
        long.
        """
        deadline = time.monotonic() + timeout_s
        stream = self.open(request, idle_timeout_s=timeout_s)
        try:
            body = stream.body(limit_b=request.answer_limit_b, timeout_s=deadline - time.monotonic())
        finally:
            stream.close()
        return stream.answer(body)

    def close(self) -> None:
        """Close idle connections; the next request opens new ones."""
        with self._client_lock:
            client, self._client = self._client, None
        if client is not None:
            client.close()
