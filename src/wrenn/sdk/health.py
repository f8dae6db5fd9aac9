"""Checks whether a platform runs. The only call that needs no API key."""

from __future__ import annotations

from wrenn.base.secrets import Secret
from wrenn.sdk._messages import Request
from wrenn.sdk._parse import Fields, json_of
from wrenn.sdk.errors import UnavailableError
from wrenn.sdk.settings import ClientSettings


async def platform_version(base_url: str, *, timeout_s: float) -> str:
    """Return the version of the platform at `base_url`, with one request.

    Raises:
        WrennError: it does not respond, or is not healthy.
    """
    from wrenn.sdk._http import AsyncTransport  # noqa: PLC0415 - slow to import, see AsyncApi

    transport = AsyncTransport(ClientSettings(Secret(""), base_url.rstrip("/"), timeout_s))
    try:
        answer = await transport.exchange(Request("GET", "/health"), timeout_s=timeout_s)
    finally:
        await transport.close()
    if answer.status != 200:
        raise UnavailableError(f"The platform at {base_url} is not well: HTTP status {answer.status}.")
    return Fields("health", json_of(answer.body)).text("version")
