"""Images on a real agent: it uploads one of a sandbox's disk, fetches it again, and the sweep removes what nothing uses."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace

import pytest
from sqlalchemy import select

from wrenn.base.ids import HostId, ImageId, SandboxId, TeamId
from wrenn.control.db import Database, Transaction
from wrenn.control.hosts import HostClients, HostImageState, ImageSource, all_hosts
from wrenn.control.hosts.client import HostClient
from wrenn.control.images import images as images_table
from wrenn.control.images import retire_images
from wrenn.control.sandboxes.tables import sandboxes
from wrenn.control.settings import Settings

from .conftest import Platform, run_sql

DEADLINE_S = 30.0


@pytest.fixture
def settings(settings: Settings) -> Settings:
    """Leases that outlast the pauses of a busy machine."""
    return replace(settings, lease_s=30.0)


@pytest.fixture
async def agent(platform: Platform, database: Database) -> AsyncIterator[HostClient]:
    """Calls of the platform's one host."""
    clients = HostClients(platform.settings.data_dir / "pki")
    (host,) = await all_hosts(database)
    yield clients.at(host.endpoint)
    await clients.close()


async def ensured(agent: HostClient, image_id: ImageId, source: ImageSource, *, upload: bool = False) -> None:
    image = await agent.ensure_image(image_id, source, wait_s=20, upload=upload)
    assert image.state is HostImageState.READY, image


async def team_of(database: Database) -> TeamId:
    """The team of the only sandbox."""
    return TeamId((await database.execute(select(sandboxes.c.team_id))).scalar_one())


async def eventually(condition: Callable[[], Awaitable[bool]]) -> None:
    async with asyncio.timeout(DEADLINE_S):
        while not await condition():
            await asyncio.sleep(0.1)


async def test_an_image_is_made_fetched_and_removed_everywhere(
    platform: Platform, database: Database, agent: HostClient
):
    path = await platform.create()
    sandbox = (await platform.api.post(f"{path}/pause")).json()
    sandbox_id, team_id = SandboxId.parse(sandbox["id"]), await team_of(database)
    images, objects = platform.control.images, platform.control.objects

    async def keys() -> set[str]:
        return {found.key async for page in objects.pages(str(team_id)) for found in page}

    async def made() -> ImageId:
        def begin(tx: Transaction) -> Awaitable[ImageId]:
            return images.begin(tx, team_id, HostId(agent.endpoint.host_id.value))

        image_id = await database.transaction(begin)
        with images.renewing_lease(image_id):
            await ensured(agent, image_id, sandbox_id, upload=True)
            await database.transaction(lambda tx: images.publish(tx, image_id, disk_size_mb=5120))
        return image_id

    async def on_host() -> set[ImageId]:
        return {image.image_id for image in await agent.list_images(timeout_s=5)}

    image_id, unknown = await made(), await made()
    assert await on_host() == {image_id, unknown}
    # It is fetched from the store again.
    await agent.remove_image(image_id, timeout_s=5)
    assert await on_host() == {unknown}
    await ensured(agent, image_id, None)
    assert await on_host() == {image_id, unknown}
    # One whose row is gone is removed from its host after a grace.
    await run_sql(str(platform.settings.database_url), f"DELETE FROM images WHERE id = '{unknown.value}'")
    await platform.control.image_sweep.sweep_once()

    async def is_only_one_left() -> bool:
        await platform.control.image_sweep.sweep_once()
        return await on_host() == {image_id}

    await eventually(is_only_one_left)
    # One that is retired, from host, store and database.
    assert {key for key in await keys() if str(image_id) in key}
    await database.transaction(lambda tx: retire_images(tx, [image_id]))

    async def is_gone() -> bool:
        rows = await database.execute(select(images_table.c.id))
        return not rows.all() and not await on_host() and not await keys()

    await eventually(is_gone)
