"""HTTP calls to sign-in providers: JSON, each with a deadline and a size limit, no redirects."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from types import TracebackType
from typing import Any, Final, Self, cast

import httpx2

from wrenn.base.errors import WrennError, cause_of
from wrenn.base.units import MIB

_TIMEOUT_S: Final = 10.0
_ANSWER_LIMIT_B: Final = 1 * MIB


class ProviderFailed(WrennError):
    """A sign-in provider did not answer, or its answer cannot be used."""

    code = "exchange_failed"
    http_status = 502


class ProviderClient:
    """Sends the requests of a sign-in to providers, within time and size limits.

    It has one pool of connections, made at the first call: reading the machine's certificates takes a while.
    """

    def __init__(self) -> None:
        self._made: httpx2.AsyncClient | None = None

    @property
    def _client(self) -> httpx2.AsyncClient:
        if self._made is None:
            self._made = httpx2.AsyncClient(timeout=_TIMEOUT_S, follow_redirects=False)
        return self._made

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._made is not None:
            await self._made.aclose()

    async def get(self, url: str, *, token: str | None = None) -> Any:
        """Fetch this address and return its JSON.

        Raises:
            ProviderFailed.
        """
        headers = {} if token is None else {"Authorization": f"Bearer {token}"}
        return await self._json("GET", url, headers=headers)

    async def post_form(
        self, url: str, form: Mapping[str, str], *, basic: tuple[str, str] | None = None
    ) -> Any:
        """Send a form and return the JSON of the answer.

        Raises:
            ProviderFailed.
        """
        return await self._json("POST", url, data=dict(form), auth=basic)

    async def _json(self, method: str, url: str, **more: Any) -> Any:
        headers = {"Accept": "application/json", "User-Agent": "wrenn", **more.pop("headers", {})}
        try:
            async with (
                asyncio.timeout(_TIMEOUT_S),
                self._client.stream(method, url, headers=headers, **more) as answer,
            ):
                body = b""
                async for chunk in answer.aiter_bytes():
                    body += chunk
                    if len(body) > _ANSWER_LIMIT_B:
                        raise _failed(url, "the answer is too long")
                if answer.status_code != 200:
                    raise _failed(url, f"status {answer.status_code}")
            return json.loads(body)
        except (httpx2.HTTPError, httpx2.InvalidURL, TimeoutError, ValueError) as error:
            raise _failed(url, cause_of(error)) from error


def _failed(url: str, cause: str) -> ProviderFailed:
    return ProviderFailed("The sign-in provider cannot be used now.", context={"url": url, "cause": cause})


def text_of(answer: Any, name: str) -> str:
    """Return a field of an answer, which must be a text.

    Raises:
        ProviderFailed.
    """
    value = cast("dict[str, Any]", answer).get(name) if isinstance(answer, dict) else None
    if not isinstance(value, str) or not value:
        raise ProviderFailed("The sign-in provider's answer is not understood.", context={"missing": name})
    return value
