"""Prepares an image from whichever source a call names, and exchanges images with the store."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from wrenn.agent.images.disk_of import FlattenDisk
from wrenn.agent.images.job import ContainerSource, DiskSource, Phase, Progress, Source, StoredSource
from wrenn.agent.sandboxes.transfers import StateStore
from wrenn.base.errors import Unavailable
from wrenn.base.ids import ImageId
from wrenn.protocol.image_manifest import ARCHIVE_LIMIT_B
from wrenn.protocol.sealed_objects import SEALED_EXTRA_B
from wrenn.storage.images import ROOTFS, ImageFacts, LocalImage

Report = Callable[[int, int], None]
"""Is told how many bytes of how many are done."""


class Transfer(StateStore, Protocol):
    """Exchanges images and saved states with the store."""

    async def upload(self, image_id: ImageId, rootfs: Path, progress: Report) -> int:
        """Bring the file into the store as the image; return how many bytes were sent."""
        ...

    async def fetch(self, image_id: ImageId, rootfs: Path, progress: Report) -> None:
        """Write the image from the store to the new file."""
        ...

    async def download(self, url: str, limit_b: int) -> bytes:
        """Read an object of the store by its signed URL."""
        ...

    def close(self) -> None:
        """Release its resources."""
        ...


class ContainerImages(Protocol):
    """Makes images of container images."""

    async def run(
        self,
        source: ContainerSource,
        image_id: ImageId,
        draft: Path,
        progress: Progress,
        *,
        job_slot: int,
        archive: bytes | None = None,
    ) -> ImageFacts:
        """Write the image into the draft; with an archive, the one in that."""
        ...


class Preparation:
    """Prepares images, by one part for each source."""

    def __init__(self, disks: FlattenDisk, containers: ContainerImages | None) -> None:
        self._disks = disks
        self._containers = containers
        self._transfer: Transfer | None = None

    def connect(self, transfer: Transfer) -> None:
        """Exchange images with the store by `transfer` from now on. It is closed with this object, or by the next one."""
        self.close()
        self._transfer = transfer

    def close(self) -> None:
        """Close the connection to the store. No image may be in preparation."""
        if self._transfer is not None:
            self._transfer.close()
            self._transfer = None

    async def prepare(
        self, source: Source, image_id: ImageId, draft: Path, progress: Progress, *, job_slot: int
    ) -> ImageFacts:
        """Write the image into the draft, and return what is known of it. Implements `registry.Prepare`.

        Raises:
            WrennError: as the source says.
        """
        match source:
            case DiskSource():
                return await self._disks.run(source, image_id, draft, progress, job_slot=job_slot)
            case StoredSource():
                progress.begin(Phase.FETCH)
                await self.connected().fetch(image_id, draft / ROOTFS, progress.report)
                # Its content is that of the id: the control plane accepts one manifest for each image.
                return ImageFacts(f"store {image_id}", uploaded=True)
            case ContainerSource():
                if self._containers is None:
                    raise Unavailable("This host cannot import container images.")
                archive = None
                if source.archive_url is not None:
                    progress.begin(Phase.PULL)
                    stored = await self.connected().download(
                        source.archive_url.reveal(), ARCHIVE_LIMIT_B + SEALED_EXTRA_B
                    )
                    archive = await asyncio.to_thread(source.opened, stored)
                return await self._containers.run(
                    source, image_id, draft, progress, job_slot=job_slot, archive=archive
                )

    async def upload(self, image: LocalImage, progress: Progress) -> int:
        """Upload an image. Implements `registry.Upload`.

        Raises:
            Unavailable: the host is not connected. Otherwise as the transfer says.
        """
        return await self.connected().upload(image.image_id, image.rootfs, progress.report)

    def connected(self) -> Transfer:
        """Return the connection to the store. Raises Unavailable: there is none."""
        if self._transfer is None:
            raise Unavailable("This host is not connected to a control plane that has a store.")
        return self._transfer
