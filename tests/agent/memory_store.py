"""An object store in memory, which the agents of a test share."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from wrenn.agent.sandboxes.transfers import Transfer
from wrenn.agent.settings import Settings
from wrenn.agent.wiring import Agent, running_agent
from wrenn.base.errors import NotFound, StoreUnavailable
from wrenn.base.ids import ImageId
from wrenn.testing.simulated_agent import ProcessHost


@dataclass
class StoredChunks:
    chunks: dict[int, bytes]
    size_b: int

    async def first(self) -> bytes:
        return self.chunks[0]

    async def write(self, indexes: Sequence[int], writer: Any, folder: Path, progress: Any) -> None:
        del folder
        for index in indexes:
            if index in self.chunks:
                writer.write(index, self.chunks[index])
            await asyncio.sleep(0)
        progress(len(indexes), len(indexes))


@dataclass
class MemoryStore:
    """An object store in memory, which both agents use."""

    images: dict[ImageId, StoredChunks] = field(default_factory=dict[ImageId, StoredChunks])
    stalls: bool = False
    is_down: bool = False

    async def upload_chunks(self, image_id: ImageId, reader: Any, progress: Any) -> int:
        if self.is_down:
            raise StoreUnavailable("The store cannot be reached.")
        while self.stalls:
            await asyncio.sleep(0.01)
        chunks = {index: data for index in reader.data_chunks() if (data := reader.read(index))}
        self.images[image_id] = StoredChunks(chunks, reader.size_b)
        progress(reader.size_b, reader.size_b)
        return sum(map(len, chunks.values()))

    @asynccontextmanager
    async def open(self, image_id: ImageId) -> AsyncGenerator[StoredChunks]:
        if image_id not in self.images:
            raise NotFound("There is no image.")
        yield self.images[image_id]

    async def upload(self, image_id: ImageId, rootfs: Path, progress: Any) -> int:
        raise NotImplementedError

    async def fetch(self, image_id: ImageId, rootfs: Path, progress: Any) -> None:
        raise NotImplementedError

    async def download(self, url: str, limit_b: int) -> bytes:
        raise NotImplementedError

    def close(self) -> None: ...


@asynccontextmanager
async def connected(settings: Settings, store: MemoryStore) -> AsyncGenerator[Agent]:
    """An agent that uses this store."""
    async with running_agent(settings, ProcessHost()) as agent:
        agent.preparation.connect(store)
        yield agent


def assert_done(transfer: Transfer) -> None:
    assert transfer.is_done
    assert transfer.failure is None, transfer.failure
