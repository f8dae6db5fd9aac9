"""Serves one caller's event stream: missed events from the table, then new ones from the feed."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Final

from wrenn.control.auth import Authenticator, Caller, Credential, OpenCalls, scopes_of
from wrenn.control.db import Database
from wrenn.control.events import store
from wrenn.control.events.feed import Feed
from wrenn.control.events.records import Audience, Position, frame
from wrenn.control.events.subscription import Ended, Subscription

_BATCH: Final = 200
HEARTBEAT_S: Final = 15.0
_HEARTBEAT: Final = b": alive\n\n"
_RETRY: Final = b"retry: 1000\n\n"


@dataclass(frozen=True, slots=True)
class Stream:
    """A stream that was accepted.

    Attributes:
        frames: what to send, as it comes; ends when the stream is over.
        subscription: its `over` is set when the stream is to end, though a frame may be on its way.
    """

    frames: AsyncIterator[bytes]
    subscription: Subscription


class Events:
    """Serves event streams: first the events that the caller missed, then new ones as they happen."""

    def __init__(
        self, *, database: Database, authenticator: Authenticator, feed: Feed, open_calls: OpenCalls
    ) -> None:
        self._database = database
        self._authenticator = authenticator
        self._feed = feed
        self._open_calls = open_calls

    @asynccontextmanager
    async def stream(
        self, credential: Credential, *, after: str | None, kinds: Sequence[str]
    ) -> AsyncGenerator[Stream]:
        """Open a stream of the events that the caller may see, after the event `after`, or from now on.

        First comes `ready`; or `reset`, where events behind `after` are forgotten or it is no event of this platform: then
        the caller must look at everything again. Nothing else is left out, and nothing comes twice.

        Raises:
            Unauthorized. InvalidRequest: `after` is no id of an event. RateLimited, Unavailable: as `Feed.subscribe`.
        """
        caller = await self._authenticator.identify(credential)
        audience = Audience(caller.team_id, scopes_of(caller), frozenset(kinds))
        last = None if after is None else Position.parse(after)
        async with self._feed.subscribe(audience) as (subscription, begin):

            def may_see(now: Caller) -> bool:
                return (now.team_id, scopes_of(now)) == (audience.team_id, audience.scopes)

            # The subscription ends at once, whatever its reader does; its connection follows.
            with self._open_calls.watched(credential, may_see, lambda _: subscription.end(Ended.REFUSED)):
                yield Stream(self._frames(subscription, begin, last), subscription)

    async def _frames(
        self, subscription: Subscription, begin: Position, last: Position | None
    ) -> AsyncGenerator[bytes]:
        yield _RETRY
        sent = begin if last is None else last
        if last is None:
            yield frame("ready", begin, {"type": "ready"})
        elif not await store.has_all_behind(self._database, last):
            sent = begin
            yield frame("reset", begin, {"type": "reset"})
        else:
            yield frame("ready", last, {"type": "ready"})
            # The feed hands out what came behind `begin`; what is up to there, and perhaps more, is in the table.
            while subscription.ended is None:
                missed = await store.read_for(self._database, subscription.audience, sent, limit=_BATCH)
                if not await store.has_all_behind(self._database, sent):
                    sent = begin
                    yield frame("reset", begin, {"type": "reset"})
                    break
                for event in missed:
                    if subscription.audience.wants(event.kind):
                        yield event.frame
                sent = store.last_of(missed, sent)
                if len(missed) < _BATCH:
                    break
        while subscription.ended is None:
            waiting = await subscription.take(timeout_s=HEARTBEAT_S)
            frames = [event.frame for event in waiting if event.position > sent]
            sent = store.last_of(waiting, sent) if waiting and waiting[-1].position > sent else sent
            if frames:
                yield b"".join(frames)
            elif subscription.ended is None and not waiting:
                yield _HEARTBEAT
