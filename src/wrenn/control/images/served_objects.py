"""The objects of a store that cannot sign URLs, as the control plane serves them to hosts by signed URLs of its own.

A team's own host has such URLs legitimately and may use them as often as it likes, so places and time are limited, and no
object is held in memory as a whole.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncGenerator, AsyncIterator, Generator
from contextlib import asynccontextmanager, contextmanager
from typing import Final

from wrenn.base.errors import DeadlineExceeded, RateLimited
from wrenn.base.units import KIB, MIB
from wrenn.control.http import StreamedBody, read_at_most
from wrenn.control.objects import ObjectStore
from wrenn.protocol.image_manifest import ARCHIVE_LIMIT_B, MANIFEST_LIMIT_B
from wrenn.protocol.sealed_objects import SEALED_EXTRA_B

_READ_AT_ONCE: Final = 512
"""Objects that this replica sends at once, each with some hundred KiB in memory."""
_READ_OF_ADDRESS: Final = 64
_WRITTEN_AT_ONCE: Final = 64
"""Objects that it receives at once, each of up to 2 MiB."""
_WRITTEN_OF_ADDRESS: Final = 32
_OBJECT_LIMIT_B: Final = 2 * MIB
"""Largest object that can be written: a chunk has at most 1.01 MiB."""
_LEAST_S: Final = 60.0
_LEAST_RATE_B: Final = 64 * KIB
"""Whoever takes longer than a minute, and than this rate would, gives its place to others."""


class _Places:
    """How many requests run at once: of one address, and of all."""

    def __init__(self, most: int, most_of_address: int) -> None:
        self._most = most
        self._most_of_address = most_of_address
        self._taken: Counter[str] = Counter()

    @contextmanager
    def take(self, address: str) -> Generator[None]:
        """Hold a place. Raises RateLimited."""
        if self._taken.total() >= self._most or self._taken[address] >= self._most_of_address:
            raise RateLimited("Too many objects of the store are transferred at this moment. Try again.")
        self._taken[address] += 1
        try:
            yield
        finally:
            self._taken[address] -= 1
            # Addresses that are gone.
            self._taken += Counter()


class ServedObjects:
    """Reads and writes objects for whoever has shown a signed URL. `address`: of the client, whose requests are counted together."""

    def __init__(self, objects: ObjectStore) -> None:
        self._objects = objects
        self._reads = _Places(_READ_AT_ONCE, _READ_OF_ADDRESS)
        self._writes = _Places(_WRITTEN_AT_ONCE, _WRITTEN_OF_ADDRESS)

    @asynccontextmanager
    async def open(self, key: str, *, address: str) -> AsyncGenerator[StreamedBody]:
        """Open an object, which must be sent while it is open.

        Raises:
            ObjectMissing. TooLarge. RateLimited. DeadlineExceeded: it was not sent in time.
        """
        with self._reads.take(address):
            size_b, pieces = await self._objects.open_stored(
                key, limit_b=max(MANIFEST_LIMIT_B, ARCHIVE_LIMIT_B) + SEALED_EXTRA_B
            )
            try:
                async with asyncio.timeout(_LEAST_S + size_b / _LEAST_RATE_B):
                    yield StreamedBody(pieces, size_b)
            except TimeoutError as error:
                raise DeadlineExceeded("The object was not read in time.") from error

    async def write(self, key: str, pieces: AsyncIterator[bytes], *, address: str) -> None:
        """Write an object of at most 2 MiB.

        Raises:
            TooLarge. RateLimited. DeadlineExceeded: it was not received in time.
        """
        with self._writes.take(address):
            try:
                async with asyncio.timeout(_LEAST_S):
                    content = await read_at_most(pieces, _OBJECT_LIMIT_B)
            except TimeoutError as error:
                raise DeadlineExceeded("The object was not received in time.") from error
            await self._objects.put_stored(key, content)
