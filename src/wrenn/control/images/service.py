"""Images: begun under a lease by whoever has them made on a host, and published when they are in the store.

The replica that begins one holds its lease until it is published or given up. When that replica dies, the sweep removes it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from contextlib import AbstractContextManager
from typing import Any, Final, TypeVar

from wrenn.base.errors import Unavailable
from wrenn.base.ids import HostId, ImageId, TeamId
from wrenn.control.db import Database, HeldLeases, Transaction
from wrenn.control.images import store
from wrenn.control.images.records import ImageKind

T = TypeVar("T")

_RETRY_S: Final = 1.0


class Images:
    """Begins and publishes images. `owner` names the replica's leases; `key_id`: the key of the store for new ones."""

    def __init__(self, *, database: Database, owner: str, lease_s: float, key_id: str | None = None) -> None:
        self._database = database
        self.key_id = key_id
        self.leases = HeldLeases(database, store.LEASES, owner=owner, lease_s=lease_s)

    async def begin(
        self,
        tx: Transaction,
        team_id: TeamId | None,
        host_id: HostId,
        kind: ImageKind = ImageKind.TEMPLATE,
        *,
        is_uploaded: bool = True,
    ) -> ImageId:
        """Insert the row of a new image of a team, or (None) of the platform, which this host is about to make and upload.

        One that is not uploaded cannot be published, and holds up no garbage collection of the store.
        No host is called. From the commit on the lease must be renewed (`renewing_lease`), or the image is removed.

        Raises:
            Unavailable: the host was deleted.
        """
        image_id = ImageId.new()
        await store.insert_pending(
            tx,
            image_id,
            team_id=team_id,
            host_id=host_id,
            is_uploaded=is_uploaded,
            kind=kind,
            key_id=self.key_id,
            owner=self.leases.owner,
            lease_s=self.leases.lease_s,
        )
        return image_id

    async def begin_alone(
        self, team_id: TeamId | None, host_id: HostId, kind: ImageKind = ImageKind.TEMPLATE, *, retry_s: float
    ) -> ImageId:
        """Do as `begin`, in a transaction of its own, again for `retry_s` while the store's garbage collection has the lock.

        Raises:
            Unavailable: it has the lock still, or the host was deleted.
        """
        return await self._patiently(lambda tx: self.begin(tx, team_id, host_id, kind), retry_s)

    async def begin_upload(self, image_id: ImageId, host_id: HostId, *, retry_s: float) -> None:
        """Let an image that was begun with `is_uploaded=False` on this host be uploaded and published after all.

        Again for `retry_s` while the store's garbage collection has the lock.

        Raises:
            Unavailable: it has the lock still, or the lease is over, and the image with it.
        """

        async def begin(tx: Transaction) -> None:
            if not await store.begin_upload(tx, image_id, host_id, owner=self.leases.owner):
                raise Unavailable("The image took too long and was taken back. Try again.")

        await self._patiently(begin, retry_s)

    async def _patiently(self, work: Callable[[Transaction], Awaitable[T]], retry_s: float) -> T:
        until = asyncio.get_running_loop().time() + retry_s
        while True:
            try:
                return await self._database.transaction(work)
            except Unavailable:
                if asyncio.get_running_loop().time() > until:
                    raise
            await asyncio.sleep(_RETRY_S)

    def renewing_lease(self, image_id: ImageId) -> AbstractContextManager[None]:
        """Renew the lease on an image that was begun while the body runs.

        Where that fails the lease may be lost, which `publish` and `give_up` notice.
        """
        return self.leases.renewed(image_id.value)

    async def publish(
        self,
        tx: Transaction,
        image_id: ImageId,
        *,
        disk_size_mb: int = 0,
        reference: str | None = None,
        config: Mapping[str, Any] | None = None,
    ) -> int:
        """Make an image ready that its host has made and uploaded; returns its size in the store.

        In the transaction that inserts its template, or stores it with its sandbox, so that no image is without one.

        Raises:
            Unavailable: the lease is over, and the image with it; or its host has not uploaded it.
        """
        stored_b = await store.publish(
            tx,
            image_id,
            owner=self.leases.owner,
            disk_size_mb=disk_size_mb,
            reference=reference,
            config=config or {},
        )
        if stored_b is None:
            raise Unavailable(
                "The image took too long and was taken back, or it is not in the store. Try again."
            )
        return stored_b

    async def give_up(self, image_id: ImageId) -> None:
        """Mark an image for removal that was begun and is not published; the sweep removes it. May be repeated."""
        await self._database.transaction(lambda tx: store.give_up(tx, image_id, owner=self.leases.owner))
