"""A stream of changes on the platform, which reconnects and resumes by itself."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Iterable

from wrenn.sdk._aio import sleep
from wrenn.sdk._async.api import AsyncApi
from wrenn.sdk._parse import json_of
from wrenn.sdk._retry import jittered
from wrenn.sdk._sse import Frame, Frames
from wrenn.sdk.errors import (
    ConnectionFailedError,
    DeadlineExceededError,
    RateLimitError,
    UnavailableError,
    UnexpectedAnswerError,
    WrennError,
)
from wrenn.sdk.settings import client_settings
from wrenn.sdk.types import Event

_SILENCE_S = 45.0
"""The platform sends something every 15 s; after this long the connection is considered dead."""
_FIRST_PAUSE_S = 0.2
_LONGEST_PAUSE_S = 10.0
_PASSING = (ConnectionFailedError, DeadlineExceededError, RateLimitError, UnavailableError)


async def events(
    *,
    types: Iterable[str] = (),
    after: str | None = None,
    api_key: str | None = None,
    base_url: str | None = None,
) -> AsyncGenerator[Event]:
    """Iterate over changes as they happen, without an end; with `after`, from the event after the one with this id.

    `types` restricts the stream to types like `sandbox` or `sandbox.paused`. With `ready` among them the
    first event has that type: no change after it is missed, so it is the time to list the current state. A
    broken connection is opened again, and no event is lost or repeated. After too long an interruption an
    event of type `reset` follows: some events are lost, so list the current state again.

    Raises:
        WrennError: the first connection failed; later, only permanent errors: for example, the key was
            revoked.
    """
    api = AsyncApi(client_settings(api_key=api_key, base_url=base_url, request_timeout_s=_SILENCE_S))
    wanted = tuple(types)
    params = {"types": ",".join(wanted)} if wanted else None
    last, connected, pause_s = after, False, _FIRST_PAUSE_S
    try:
        while True:
            headers = {"Last-Event-ID": last} if last else None
            try:
                async for frame in _frames(api, params, headers):
                    is_forwarded = frame.type != "ready" or ("ready" in wanted and not connected)
                    last, connected, pause_s = frame.id or last, True, _FIRST_PAUSE_S
                    if is_forwarded:
                        yield _event(frame)
            except WrennError as error:
                if not connected or not isinstance(error, _PASSING):
                    raise
            await sleep(jittered(pause_s))
            pause_s = min(_LONGEST_PAUSE_S, pause_s * 2)
    finally:
        await api.close()


async def _frames(
    api: AsyncApi, params: dict[str, str] | None, headers: dict[str, str] | None
) -> AsyncGenerator[Frame]:
    frames = Frames()
    async for piece in api.listen("/v1/events", params=params, headers=headers):
        for frame in frames.feed(piece):
            yield frame


def _event(frame: Frame) -> Event:
    try:
        return Event.parse(frame.id, json_of(frame.data.encode()))
    except UnexpectedAnswerError as error:
        raise UnexpectedAnswerError("The platform sent an event that cannot be read.") from error
