"""Cache of loaded memory images: each base, and each snapshot that VMs run on, as one open file that never changes.

All VMs on an image map it privately and so share its pages. An image is loaded on first use. What kind of file it is, is up
to the driver: `ImageLoader`.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from functools import partial
from typing import Final, Protocol

from wrenn.linux.threads import LOADING, run_to_end
from wrenn.storage import snapshots
from wrenn.storage.errors import DamagedSnapshot
from wrenn.storage.folders import Folders
from wrenn.vm.memory import ImageRef

_LOADED_LIMIT: Final = 16
"""Images kept loaded, about 100 MB of memory each. VMs hold their own; loading one anew takes a tenth of a second."""


class ImageLoader(Protocol):
    """Loads one image. All methods block."""

    def load_base(self, key: str) -> int:
        """Return a descriptor of a base's memory, which the caller owns. Raises DamagedBase."""
        ...

    def compose(self, below: int, snapshot: snapshots.Snapshot) -> int:
        """Return a descriptor of the image `below` with a snapshot over it, which the caller owns. Raises DamagedSnapshot."""
        ...

    def drop(self, fd: int) -> None:
        """Close a descriptor that `load_base` or `compose` returned, and remove what was made for it. VMs on it keep running."""
        ...


class LoadedImages:
    """A cache of memory images, bounded in number and size; concurrent requests for one image load it once."""

    def __init__(self, folders: Folders, loader: ImageLoader, *, limit_b: int) -> None:
        """`limit_b`: what they may take together. The one that was loaded last stays, however large."""
        self._folders = folders
        self._loader = loader
        self._limit_b = limit_b
        self._loaded: dict[ImageRef, int] = {}
        self._last_use: dict[ImageRef, float] = {}
        self._loading: dict[ImageRef, asyncio.Task[int]] = {}
        self._outdated: set[ImageRef] = set()
        """Images that were forgotten while they were being loaded."""

    @asynccontextmanager
    async def descriptor(self, image: ImageRef) -> AsyncGenerator[int]:
        """Return a context with a descriptor of the image, valid until the context ends.

        Raises:
            DamagedBase, DamagedSnapshot: the image is not what was saved.
        """
        fd = await self._dup(image)
        try:
            yield fd
        finally:
            os.close(fd)

    async def _dup(self, image: ImageRef) -> int:
        # No await between the lookup and the dup: the image could be closed, and its descriptor number reused.
        while (fd := self._loaded.get(image)) is None:
            task = self._loading.get(image)
            if task is None:
                task = asyncio.create_task(self._load(image), name=f"load memory image {image}")
                self._loading[image] = task
                task.add_done_callback(partial(self._ended, image))
            # One caller's cancellation must not stop what others wait for.
            await asyncio.shield(task)
        self._last_use[image] = time.monotonic()
        return os.dup(fd)

    def _ended(self, image: ImageRef, task: asyncio.Task[int]) -> None:
        del self._loading[image]
        outdated = image in self._outdated
        self._outdated.discard(image)
        if task.cancelled() or task.exception() is not None:
            return
        if outdated:
            self._loader.drop(task.result())
            return
        self._loaded[image] = task.result()
        self._last_use[image] = time.monotonic()
        for oldest in sorted(self._loaded, key=self._last_use.__getitem__)[:-1]:
            if len(self._loaded) <= _LOADED_LIMIT and self._loaded_b() <= self._limit_b:
                break
            if oldest != image:
                self.forget(oldest)

    def _loaded_b(self) -> int:
        return sum(os.fstat(fd).st_blocks * 512 for fd in self._loaded.values())

    async def _load(self, image: ImageRef) -> int:
        if not image.snapshot:
            return await run_to_end(
                partial(self._loader.load_base, image.base), drop=self._loader.drop, pool=LOADING
            )
        snapshot = snapshots.find(self._folders.snapshots, image.snapshot)
        if snapshot.manifest.base != image.base:
            raise DamagedSnapshot(f"{image.snapshot} lies on another base.")
        async with self.descriptor(ImageRef(image.base, snapshot.manifest.parent)) as below:
            return await run_to_end(
                partial(self._loader.compose, below, snapshot), drop=self._loader.drop, pool=LOADING
            )

    def forget(self, image: ImageRef) -> None:
        """Unload an image; VMs on it keep running. A load under way is repeated for those who wait for it."""
        if (fd := self._loaded.pop(image, None)) is not None:
            self._loader.drop(fd)
        self._last_use.pop(image, None)
        if image in self._loading:
            self._outdated.add(image)

    async def close(self) -> None:
        """Cancel loads that are under way and unload all images."""
        tasks = list(self._loading.values())
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)
        for image in list(self._loaded):
            self.forget(image)
