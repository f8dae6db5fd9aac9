"""Receives the archives of builds, and brings them into the store.

Receiving takes as long as the client does, so it has places of its own, on the disk. An archive is in memory only while it goes to the store.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import BinaryIO, Final
from uuid import UUID

from wrenn.base.errors import DeadlineExceeded, RateLimited, TooLarge
from wrenn.base.ids import TeamId
from wrenn.base.units import KIB, MIB
from wrenn.control.builds.scratch import ScratchSpace
from wrenn.control.objects import ObjectStore
from wrenn.protocol.image_manifest import ARCHIVE_LIMIT_B

RECEIVED_AT_ONCE: Final = 32
"""Archives that this replica receives, into temporary files."""
_STORED_AT_ONCE: Final = 2
"""Archives that this replica holds in memory."""
_UPLOAD_TIMEOUT_S: Final = 600.0
_LEAST_S: Final = 60.0
_LEAST_RATE_B: Final = 32 * KIB
"""Of a client, after the first minute: whoever is slower gives its place to others."""


class ArchiveUploads:
    """The uploads of archives of this replica, one of a team at a time."""

    def __init__(self, objects: ObjectStore, scratch: ScratchSpace) -> None:
        self._objects = objects
        self._scratch = scratch
        self._storing = asyncio.Semaphore(_STORED_AT_ONCE)
        self._uploading: set[TeamId] = set()

    async def store(self, team_id: TeamId, owner: UUID, key: str, archive: AsyncIterator[bytes]) -> None:
        """Receive an archive and write it to the store. `owner`: of the team.

        Raises:
            RateLimited: another upload of the team is under way, or too many of others. TooLarge. DeadlineExceeded: it came too slowly.
            Unavailable: the control plane has no room. StoreUnavailable.
        """
        if team_id in self._uploading:
            raise RateLimited("The team uploads another archive at this moment. Try again.")
        if len(self._uploading) >= RECEIVED_AT_ONCE:
            raise RateLimited("Too many archives are uploaded at this moment. Try again.")
        self._uploading.add(team_id)
        try:
            received = await asyncio.to_thread(self._scratch.new, owner)
            try:
                await receive_archive(archive, received)
                async with self._storing:
                    received.seek(0)
                    await self._objects.put(key, await asyncio.to_thread(received.read))
            finally:
                await asyncio.to_thread(received.close)
        finally:
            self._uploading.discard(team_id)


async def receive_archive(
    archive: AsyncIterator[bytes], file: BinaryIO, *, timeout_s: float = _UPLOAD_TIMEOUT_S
) -> None:
    """Write an archive that a client sends to a file.

    Raises:
        TooLarge. DeadlineExceeded: it came too slowly, or took longer than `timeout_s`.
    """
    loop, size_b = asyncio.get_running_loop(), 0
    begun = loop.time()
    try:
        async with asyncio.timeout(_LEAST_S) as limit:
            async for piece in archive:
                size_b += len(piece)
                if size_b > ARCHIVE_LIMIT_B:
                    raise TooLarge(f"The archive has more than {ARCHIVE_LIMIT_B // MIB} MiB.")
                await asyncio.to_thread(file.write, piece)
                limit.reschedule(begun + min(_LEAST_S + size_b / _LEAST_RATE_B, timeout_s))
    except TimeoutError as error:
        raise DeadlineExceeded(
            f"The archive was received too slowly: at least {_LEAST_RATE_B // KIB} KiB/s are needed, "
            f"and all of it within {timeout_s:.0f} s."
        ) from error
