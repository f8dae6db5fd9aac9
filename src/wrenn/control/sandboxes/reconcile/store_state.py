"""Has a host upload the state of a paused sandbox to the store, and publishes it there."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TypeVar

from wrenn.base.faults import fault_point
from wrenn.base.ids import ImageId, SandboxId, TeamId
from wrenn.control.db import Database, Transaction
from wrenn.control.hosts import TRANSFER_WAIT_S, HostClients, HostEndpoint, finish_transfer
from wrenn.control.images import ImageKind, Images

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class StoreState:
    """Uploads states. A host may be silent for `retry_s`."""

    database: Database
    clients: HostClients
    images: Images
    retry_s: float

    async def run(
        self,
        sandbox_id: SandboxId,
        team_id: TeamId,
        host: HostEndpoint,
        generation: int,
        *,
        before_call: Callable[[], Awaitable[None]],
        publish: Callable[[Transaction, ImageId, int], Awaitable[T]],
    ) -> T:
        """Upload a paused sandbox as a new image, and publish it in one transaction with what `publish` writes; returns what that returns.

        `publish` gets the size of the image in the store.

        After a failure the image is given up.

        Raises:
            What `before_call`, which is called before each call to the host, or `publish` raises. Else as `finish_transfer`.
        """
        image_id = await self.images.begin_alone(
            team_id, host.host_id, ImageKind.SANDBOX, retry_s=self.retry_s
        )
        await fault_point("control.move.after_begin")
        with self.images.renewing_lease(image_id):
            try:
                client = self.clients.at(host)
                await finish_transfer(
                    lambda: client.store_sandbox(
                        sandbox_id, image_id, generation=generation, wait_s=TRANSFER_WAIT_S
                    ),
                    before_call=before_call,
                    retry_s=self.retry_s,
                )
                await fault_point("control.move.after_upload")

                async def publish_with(tx: Transaction) -> T:
                    size_b = await self.images.publish(tx, image_id)
                    return await publish(tx, image_id, size_b)

                published = await self.database.transaction(publish_with)
            except BaseException:
                await asyncio.shield(self.images.give_up(image_id))
                raise
        await fault_point("control.move.after_publish")
        return published
