"""Calls to the platform: deadlines, retries where they are safe, and translation of the platform's errors."""

from __future__ import annotations

import time
from collections.abc import AsyncIterable, AsyncIterator, Awaitable, Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Final, TypeVar
from urllib.parse import quote, urlencode

from wrenn.sdk._aio import sleep
from wrenn.sdk._error_response import raise_for_status
from wrenn.sdk._messages import Answer, Request
from wrenn.sdk._retry import PAUSES_S, jittered, may_have_been_done, may_repeat
from wrenn.sdk.errors import InvalidRequestError, WrennError
from wrenn.sdk.settings import ClientSettings

if TYPE_CHECKING:
    from wrenn.sdk._http import AsyncStream
    from wrenn.sdk._sockets import AsyncSocket

T = TypeVar("T")
_PORT_ANSWER_LIMIT_B: Final = 8 * 1024 * 1024
_ERROR_LIMIT_B: Final = 1024 * 1024
"""Longest body of an error in place of a streamed response."""


class AsyncApi:
    """A client of the platform. Has a connection pool until `close()`; a later call opens new connections."""

    def __init__(self, settings: ClientSettings) -> None:
        # The HTTP client takes longer to import than everything else, which would slow down `from wrenn
        # import Sandbox`.
        from wrenn.sdk._http import AsyncTransport  # noqa: PLC0415

        self.settings = settings
        self._transport = AsyncTransport(settings)

    async def call(
        self,
        method: str,
        path: str,
        *,
        params: Mapping[str, str] | None = None,
        headers: Mapping[str, str] | None = None,
        json: object = None,
        content: bytes | None = None,
        repeatable: bool = False,
        timeout_s: float | None = None,
    ) -> bytes:
        """Make one call and return the body of the response, within `timeout_s` including all retries.

        `repeatable` says that the call is idempotent.

        Raises:
            WrennError: an error of the class for the response; `earlier_attempt_sent` says whether an attempt
                before the last one may have been carried out.
        """
        request = Request(method, path, params=params, headers=headers, json=json, content=content)
        return (await self._answered(request, repeatable=repeatable, timeout_s=timeout_s)).body

    async def page(self, path: str, query: Sequence[tuple[str, str]]) -> tuple[bytes, str]:
        """Read one page of a list: the body, and the cursor of the next page, which is empty on the last one."""
        request = Request("GET", f"{path}?{urlencode(query)}" if query else path)
        answer = await self._answered(request, repeatable=True)
        return answer.body, answer.next_cursor

    async def _answered(
        self, request: Request, *, repeatable: bool, timeout_s: float | None = None
    ) -> Answer:
        async def attempt(left_s: float) -> Answer:
            answer = await self._transport.exchange(request, timeout_s=left_s)
            raise_for_status(
                answer.status, answer.body, answer.request_id, is_from_sandbox=answer.is_from_sandbox
            )
            return answer

        return await _with_retries(
            attempt, repeatable=repeatable, timeout_s=timeout_s or self.settings.request_timeout_s
        )

    async def upload(
        self,
        path: str,
        content: AsyncIterable[bytes],
        *,
        content_type: str,
        params: Mapping[str, str] | None = None,
    ) -> bytes:
        """Stream a body to the platform, and return the body of the response. Only pauses are limited in time, not the total."""
        headers = {"Content-Type": content_type}
        request = Request("POST", path, params=params, headers=headers, content=content)
        stream = await self._opened(request)
        try:
            return await stream.body(
                limit_b=request.answer_limit_b, timeout_s=self.settings.request_timeout_s
            )
        finally:
            await stream.close()

    async def ask_port(
        self, method: str, path: str, *, headers: Mapping[str, str], json: object = None
    ) -> bytes:
        """Make one call of a program in a sandbox, which `headers` name, and return the body of the response, which is limited."""
        request = Request(method, path, headers=headers, json=json, answer_limit_b=_PORT_ANSWER_LIMIT_B)
        return (await self._answered(request, repeatable=False)).body

    async def open(
        self,
        method: str,
        path: str,
        *,
        params: Mapping[str, str] | None = None,
        headers: Mapping[str, str] | None = None,
        json: object = None,
        silence_s: float | None = None,
    ) -> AsyncStream:
        """Begin a call with a streamed response, which the caller must close. Only pauses are limited in time."""
        request = Request(method, path, params=params, headers=headers, json=json)
        return await self._opened(request, silence_s)

    async def socket(self, path: str, *, params: Mapping[str, str] | None = None) -> AsyncSocket:
        """Open a WebSocket of the platform. Opening one changes nothing, so it is retried where that may help.

        Raises:
            WrennError: an error of the class for the response.
        """
        from wrenn.sdk._sockets import AsyncSocket  # noqa: PLC0415 - as above

        async def attempt(left_s: float) -> AsyncSocket:
            return await AsyncSocket.open(self.settings, path, params or {}, timeout_s=left_s)

        return await _with_retries(attempt, repeatable=True, timeout_s=self.settings.request_timeout_s)

    @property
    def request_timeout_s(self) -> float:
        """Longest time for a call."""
        return self.settings.request_timeout_s

    def build_path(self, *parts: str) -> str:
        """Return the URL path `/v1/builds/…`, or for an admin `/v1/admin/builds/…`, with each part escaped.

        Raises:
            InvalidRequestError: the id is empty, or would change the path.
        """
        if any(part.strip() in ("", ".", "..") for part in parts):
            raise InvalidRequestError("The build id is empty or not valid.")
        return _joined("/v1/builds" if self.settings.admin is None else "/v1/admin/builds", parts)

    async def listen(
        self, path: str, *, params: Mapping[str, str] | None = None, headers: Mapping[str, str] | None = None
    ) -> AsyncIterator[bytes]:
        """Yield a response that does not end. Only pauses are limited in time."""
        stream = await self.open("GET", path, params=params, headers=headers)
        try:
            async for chunk in stream.chunks():
                yield chunk
        finally:
            await stream.close()

    def new_client(self) -> AsyncApi:
        """Create a client with the same settings and its own connections."""
        return AsyncApi(self.settings)

    async def close(self) -> None:
        """Close idle connections."""
        await self._transport.close()

    async def _opened(self, request: Request, silence_s: float | None = None) -> AsyncStream:
        idle_timeout_s = silence_s or self.settings.request_timeout_s

        async def attempt(left_s: float) -> AsyncStream:  # noqa: ARG001 - a long upload may exceed any total timeout
            stream = await self._transport.open(request, idle_timeout_s=idle_timeout_s)
            if stream.status >= 300:
                try:
                    body = await stream.body(
                        limit_b=_ERROR_LIMIT_B, timeout_s=self.settings.request_timeout_s
                    )
                finally:
                    await stream.close()
                raise_for_status(
                    stream.status, body, stream.request_id, is_from_sandbox=stream.is_from_sandbox
                )
            return stream

        return await _with_retries(attempt, repeatable=False, timeout_s=idle_timeout_s)


def path_of(*parts: str) -> str:
    """Return the URL path `/v1/sandboxes/…` with each part escaped.

    Raises:
        InvalidRequestError: a part is empty, or would change the path.
    """
    if parts and not parts[0].strip():
        raise InvalidRequestError("The sandbox id is empty.")
    if any(part in ("", ".", "..") for part in parts):
        raise InvalidRequestError("A pid, tag or name in the call is empty or not valid.")
    return _joined("/v1/sandboxes", parts)


def snapshot_path_of(*parts: str) -> str:
    """Return the URL path `/v1/snapshots/…` with each part escaped."""
    return _joined("/v1/snapshots", parts)


def template_path_of(*parts: str) -> str:
    """Return the URL path `/v1/templates/…` with each part escaped.

    Raises:
        InvalidRequestError: a part is empty, or would change the path.
    """
    if any(part.strip() in ("", ".", "..") for part in parts):
        raise InvalidRequestError("A template's name or tag is empty or not valid.")
    return _joined("/v1/templates", parts)


def _joined(prefix: str, parts: tuple[str, ...]) -> str:
    return "/".join([prefix, *(quote(part, safe="") for part in parts)])


async def _with_retries(attempt: Callable[[float], Awaitable[T]], *, repeatable: bool, timeout_s: float) -> T:
    """Call `attempt` with the remaining seconds, and retry it after a delay where that is safe."""
    deadline = time.monotonic() + timeout_s
    pauses = iter(PAUSES_S)
    sent = False
    while True:
        try:
            return await attempt(deadline - time.monotonic())
        except WrennError as error:
            error.earlier_attempt_sent = sent
            sent = sent or may_have_been_done(error)
            pause_s = next(pauses, None)
            if pause_s is None or not may_repeat(error, repeatable=repeatable):
                raise
            if time.monotonic() + pause_s >= deadline:
                raise
        await sleep(jittered(pause_s))
