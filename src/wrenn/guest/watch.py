"""Streams changes of files in the guest."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass
from typing import Final, Literal

from protobuf import Oneof

from wrenn.base import errors as e
from wrenn.guest.connect import GuestConnection
from wrenn.protocol.guest import filesystem_pb as pb

Kind = Literal["started", "create", "write", "remove", "rename", "chmod", "overflow", "keepalive"]

KEEPALIVE_S: Final = 20
"""Longest silence of a live guest."""
_SILENCE_S: Final = 60.0
_FIRST_PAUSE_S: Final = 0.05
_PAUSE_LIMIT_S: Final = 1.0
_CALM_S: Final = 10.0
"""A watch whose events are lost begins again after 0.1 s, and each time after twice as long, up to the limit, unless it lasted this long:
the guest decides how soon it ends, and each begin is a call for it and a line for the caller."""
_NAME_LIMIT: Final = 16 * 1024
"""Characters of a path relative to the watched directory. Linux paths, escaped, are shorter."""
_KINDS: Final[dict[pb.EventType, Kind]] = {
    pb.EventType.CREATE: "create",
    pb.EventType.WRITE: "write",
    pb.EventType.REMOVE: "remove",
    pb.EventType.RENAME: "rename",
    pb.EventType.CHMOD: "chmod",
}
_ROOT: Final = "."


@dataclass(frozen=True, slots=True)
class FileEvent:
    """A change of a file. `name` is relative to the watched directory, and empty for the directory itself."""

    kind: Kind
    name: str = ""


async def watch(
    guest: GuestConnection, path: str, *, recursive: bool, user: str
) -> AsyncGenerator[FileEvent]:
    """Watch a directory, with `recursive` including all subdirectories.

    The first event is `started`: from then on no change is missed. `overflow` means that events were lost,
    and that no change is missed from then on. `keepalive` is sent while nothing happens. Close the iterator
    to end the watch.

    Raises:
        NotFound: no such directory, or it was removed while it was watched.
        InvalidRequest: not a directory.
        TooLarge: too many watches or subdirectories. RateLimited: too many streams of this sandbox are open.
        Unavailable: the guest does not respond.
    """
    request = pb.WatchDirRequest(path=path, recursive=recursive)
    began: Kind = "started"
    pause_s = _FIRST_PAUSE_S
    with guest.long_stream():
        while True:
            armed = False
            begun_at = time.monotonic()
            try:
                async with aclosing(_answers(guest, request, user)) as answers:
                    async for answer in answers:
                        match answer.event:
                            case Oneof(field="start"):
                                armed = True
                                yield FileEvent(began)
                            case Oneof(field="filesystem", value=event):
                                yield _event(event)
                                if event.name == _ROOT and event.type == pb.EventType.REMOVE:
                                    raise e.NotFound("The watched directory was removed.")
                            case _:
                                yield FileEvent("keepalive")
            except e.TooLarge:
                if not armed:
                    raise
                began = "overflow"
                pause_s = _next_pause_s(pause_s, lasted_s=time.monotonic() - begun_at)
                await asyncio.sleep(pause_s)
            else:
                raise e.AgentFailure("The sandbox ended the watch without a reason.")


def _next_pause_s(last_s: float, *, lasted_s: float) -> float:
    """Return how long to wait before a watch that ended after `lasted_s` begins again; `last_s`: the wait before that."""
    return min(2 * (_FIRST_PAUSE_S if lasted_s >= _CALM_S else last_s), _PAUSE_LIMIT_S)


async def _answers(
    guest: GuestConnection, request: pb.WatchDirRequest, user: str
) -> AsyncGenerator[pb.WatchDirResponse]:
    headers = {"Keepalive-Ping-Interval": str(KEEPALIVE_S)}
    async with guest.stream(
        "filesystem.Filesystem/WatchDir", request, pb.WatchDirResponse, user=user, headers=headers
    ) as answers:
        while True:
            try:
                async with asyncio.timeout(_SILENCE_S):
                    answer = await anext(answers, None)
            except TimeoutError as error:
                raise e.Unavailable(f"The sandbox has been silent for {_SILENCE_S:.0f} s.") from error
            if answer is None:
                return
            yield answer


def _event(event: pb.FilesystemEvent) -> FileEvent:
    kind = _KINDS.get(event.type)
    if kind is None or len(event.name) > _NAME_LIMIT:
        raise e.AgentFailure("The sandbox reported a change that cannot be read.")
    return FileEvent(kind, "" if event.name == _ROOT else event.name)
