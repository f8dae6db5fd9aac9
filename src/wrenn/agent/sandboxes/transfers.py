"""Transfers of saved states between this host and the store: what is under way, and how far."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Protocol

from wrenn.base.errors import InternalError, Unavailable, WrennError
from wrenn.base.ids import ImageId
from wrenn.storage.objects import ChunkReader, ChunkWriter

_log = logging.getLogger(__name__)

OUTGOING: Final = "outgoing"
INCOMING: Final = "incoming"
SCRATCH: Final = (OUTGOING, INCOMING)
"""Folders in that of a sandbox: for files that are made only for an upload, and for what is being fetched."""

Progress = Callable[[int, int], None]
"""Is told how many bytes of how many are done."""


class StoredState(Protocol):
    """A saved state in the store."""

    size_b: int

    async def first(self) -> bytes:
        """Return the first chunk."""
        ...

    async def write(
        self, indexes: Sequence[int], writer: ChunkWriter, folder: Path, progress: Progress
    ) -> None:
        """Fetch these chunks and write them, as long as there is space below `folder`."""
        ...


class StateStore(Protocol):
    """Exchanges saved states with the store."""

    async def upload_chunks(self, image_id: ImageId, reader: ChunkReader, progress: Progress) -> int:
        """Bring all chunks into the store as the image; return how many bytes were sent."""
        ...

    def open(self, image_id: ImageId) -> AbstractAsyncContextManager[StoredState]:
        """Open an image in the store, to fetch chunks of it."""
        ...


@dataclass(frozen=True, slots=True)
class Failure:
    """Why a transfer failed, for the caller."""

    code: str
    message: str


@dataclass(slots=True, eq=False)
class Transfer:
    """One transfer of a sandbox. It ends when its task does.

    Attributes:
        done_b, total_b: of what is transferred.
        sent_b: bytes that an upload sent.
    """

    image_id: ImageId
    done_b: int = 0
    total_b: int = 0
    sent_b: int = 0
    failure: Failure | None = None
    task: asyncio.Task[Any] | None = field(default=None, repr=False)

    def report(self, done_b: int, total_b: int) -> None:
        """Set how far it is."""
        self.done_b, self.total_b = done_b, total_b

    @property
    def is_done(self) -> bool:
        """Whether it has ended, well or not."""
        return self.task is None or self.task.done()

    async def wait(self, wait_s: float) -> None:
        """Wait for its end, at most so long."""
        if self.task is not None:
            await asyncio.wait({self.task}, timeout=wait_s)

    async def cancel(self) -> None:
        """Cancel it, and wait for its end."""
        if self.task is not None:
            self.task.cancel()
            await asyncio.wait({self.task})

    async def run(self, work: Awaitable[object]) -> None:
        """Do the work; a failure is noted and raised."""
        try:
            await work
        except asyncio.CancelledError:
            self.failure = Failure(
                Unavailable.code,
                "The transfer was cut off: the sandbox was resumed, changed or removed, or the agent stopped.",
            )
            raise
        except WrennError as error:
            self.failure = Failure(error.code, error.message)
            raise
        except Exception:
            self.failure = Failure(InternalError.code, "The sandbox could not be transferred.")
            raise
