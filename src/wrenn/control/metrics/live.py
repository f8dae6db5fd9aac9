"""Streams the newest samples of a team's running sandboxes: read once for all streams of the team, only while there are some.

A stream that is slow skips samples: only the newest ones wait for it.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, AsyncIterator, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from typing import Final

from wrenn.base.errors import InvalidRequest, RateLimited, Unavailable
from wrenn.base.ids import SandboxId, TeamId
from wrenn.base.loops import Loop
from wrenn.base.tasks import OwnedTasks
from wrenn.control.auth import Authenticator, Caller, Credential, OpenCalls
from wrenn.control.db import Database
from wrenn.control.identity import OwnerShare
from wrenn.control.metrics.sandbox_metrics import SANDBOXES_LIMIT, NewestSample, SandboxMetrics
from wrenn.control.metrics.types import newest_point_json

_EVERY_S: Final = 2.0
_HEARTBEAT_S: Final = 15.0
_HEARTBEAT: Final = b": alive\n\n"
_RETRY: Final = b"retry: 2000\n\n"
_IN_REPLICA: Final = 500
"""Streams that one replica serves."""
_OF_TEAM: Final = 20
"""Of these, of one team."""
_OF_OWNER: Final = 50
"""Of these, of all teams of one owner."""


class _Subscription:
    """One stream: the frame that it has not sent yet, and whether it is over. `ids`: only these sandboxes; None: all."""

    def __init__(self, ids: frozenset[SandboxId] | None) -> None:
        self.ids = ids
        self.over = asyncio.Event()
        self._frame = b""
        self._some = asyncio.Event()

    def offer(self, frame: bytes) -> None:
        """Send this next, instead of one that still waits."""
        self._frame = frame
        self._some.set()

    def end(self) -> None:
        """End the stream."""
        self.over.set()
        self._some.set()

    async def frames(self) -> AsyncGenerator[bytes]:
        """Yield frames as they come, and something every 15 s, until the end."""
        yield _RETRY
        while not self.over.is_set():
            try:
                async with asyncio.timeout(_HEARTBEAT_S):
                    await self._some.wait()
            except TimeoutError:
                yield _HEARTBEAT
                continue
            self._some.clear()
            if not self.over.is_set():
                yield self._frame


@dataclass(frozen=True, slots=True)
class LiveStream:
    """A stream that was accepted. Implements `http.FrameStream`."""

    frames: AsyncIterator[bytes]
    subscription: _Subscription


class LiveMetrics:
    """Serves the streams of this replica."""

    def __init__(
        self,
        *,
        database: Database,
        metrics: SandboxMetrics,
        authenticator: Authenticator,
        open_calls: OpenCalls,
    ) -> None:
        self._owners = OwnerShare(
            database, limit=_OF_OWNER, what="streams of metrics", scarce_from=_IN_REPLICA // 2
        )
        self._metrics = metrics
        self._authenticator = authenticator
        self._open_calls = open_calls
        self._streams: dict[TeamId, set[_Subscription]] = {}
        self._tasks = OwnedTasks()
        self._closed = False

    def end_streams(self) -> None:
        """End all streams, and refuse new ones."""
        self._closed = True
        for subscription in [each for streams in self._streams.values() for each in streams]:
            subscription.end()

    async def close(self) -> None:
        """Stop reading samples."""
        self.end_streams()
        await self._tasks.close()

    @asynccontextmanager
    async def stream(
        self, credential: Credential, text_ids: Sequence[str] | None
    ) -> AsyncGenerator[LiveStream]:
        """Open a stream of the newest samples of these sandboxes of the caller's team, or of all that run.

        Raises:
            Unauthorized. InvalidRequest: of an id, or too many. RateLimited: too many streams, or sandboxes that they name. Unavailable: the replica is shutting down.
        """
        caller = await self._authenticator.identify(credential)
        if text_ids is not None and len(text_ids) > SANDBOXES_LIMIT:
            raise InvalidRequest(f"ids: at most {SANDBOXES_LIMIT}.")
        ids = None if text_ids is None else frozenset(SandboxId.parse(text_id) for text_id in text_ids)
        team_id = caller.team_id
        subscription = _Subscription(ids)

        def may_see(now: Caller) -> bool:
            return now.team_id == team_id

        async with self._owners.taken(team_id):
            self._require_capacity(team_id, ids)
            if team_id not in self._streams:
                self._streams[team_id] = set()
                self._tasks.start(f"newest samples of {team_id}", self._read(team_id))
            self._streams[team_id].add(subscription)
            try:
                with self._open_calls.watched(credential, may_see, lambda _: subscription.end()):
                    yield LiveStream(subscription.frames(), subscription)
            finally:
                self._streams[team_id].discard(subscription)

    def _require_capacity(self, team_id: TeamId, ids: frozenset[SandboxId] | None) -> None:
        if self._closed:
            raise Unavailable("This replica is shutting down. Try again.")
        if len(self._streams.get(team_id, ())) >= _OF_TEAM:
            raise RateLimited(f"The team has {_OF_TEAM} streams of metrics open here: close one.")
        if ids is not None and len(ids | _named(self._streams.get(team_id, ()))) > SANDBOXES_LIMIT:
            raise RateLimited(
                f"The team's streams of metrics name more than {SANDBOXES_LIMIT} sandboxes: close one."
            )
        if sum(map(len, self._streams.values())) >= _IN_REPLICA:
            raise RateLimited(f"There are {_IN_REPLICA} streams of metrics open here. Try again later.")

    async def _read(self, team_id: TeamId) -> None:
        """Read and hand out samples as long as the team has streams."""
        loop = Loop("read newest samples")
        # The first one is added when this task has been started.
        while streams := self._streams[team_id]:
            # When the database is away the streams stay open, and go on when it is back.
            found = await loop.attempt(partial(self._newest, team_id, streams), otherwise=None)
            if found is not None:
                # Each once, however many streams have it.
                encoded = {
                    newest.sandbox_id: json.dumps(newest_point_json(newest))
                    for newest in found
                    if newest.sample is not None
                }
                for subscription in streams:
                    subscription.offer(_frame(encoded, subscription.ids))
            await asyncio.sleep(_EVERY_S)
        del self._streams[team_id]

    async def _newest(self, team_id: TeamId, streams: set[_Subscription]) -> list[NewestSample]:
        wanted = _named(streams)
        found: list[NewestSample] = []
        if any(each.ids is None for each in streams):
            found = await self._metrics.newest_of_team(team_id, None)
            wanted -= {newest.sandbox_id for newest in found}
        if wanted:
            found += await self._metrics.newest_of_team(team_id, list(wanted))
        return found


def _named(streams: Iterable[_Subscription]) -> frozenset[SandboxId]:
    """Return the sandboxes that streams name."""
    return frozenset[SandboxId]().union(*(each.ids for each in streams if each.ids is not None))


def _frame(encoded: Mapping[SandboxId, str], ids: frozenset[SandboxId] | None) -> bytes:
    chosen = ", ".join(point for sandbox_id, point in encoded.items() if ids is None or sandbox_id in ids)
    return f'event: metrics\ndata: {{"type": "metrics", "sandboxes": [{chosen}]}}\n\n'.encode()
