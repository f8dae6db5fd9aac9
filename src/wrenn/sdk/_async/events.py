"""What changes on the platform, as it changes: an iterator that comes back by itself where it was."""

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
"""The platform says something every 15 s; after so long the connection is taken for dead."""
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
    """Everything that changes from now on, or from behind the event with the id `after` on; without an end.

    `types` like `sandbox` or `sandbox.paused`: only these. With `ready` among them the first event is of that type: what
    changes from there on is told, so it is the time to look at what there is. A broken connection is opened again, and nothing is missed or
    comes twice. After too long a break comes an event of type `reset`: look at everything again, some events are lost.

    Raises:
        WrennError: the first connection fails; later, only what does not pass: the key is not valid any more.
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
                    told = frame.type != "ready" or ("ready" in wanted and not connected)
                    last, connected, pause_s = frame.id or last, True, _FIRST_PAUSE_S
                    if told:
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
