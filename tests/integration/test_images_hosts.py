"""An image that one host makes of a sandbox's disk, and another one fetches for a create. Costs about 6 s."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from tests.vm.kit import created, output
from wrenn.agent.enrolment import CredentialsFile
from wrenn.agent.images import DiskSource, StoredSource
from wrenn.base.errors import NotFound
from wrenn.base.faults import arm_faults
from wrenn.base.ids import HostId, ImageId
from wrenn.control.settings import Settings
from wrenn.storage.images import ImageFolder
from wrenn.testing.agent_host import AgentHost, agent_host

from .conftest import ControlPlane, environment_of, make_team, running_control_plane


@dataclass
class Fleet:
    plane: ControlPlane
    maker: AgentHost
    other: AgentHost

    async def begun(self) -> ImageId:
        """A row for an image of the platform that the first host makes."""
        credentials = CredentialsFile(self.maker.agent.layout.data_dir).load()
        assert credentials is not None
        host_id, images = HostId.parse(credentials.host_id), self.plane.control.images
        return await self.plane.control.database.transaction(lambda tx: images.begin(tx, None, host_id))

    async def published(self, image_id: ImageId) -> None:
        images = self.plane.control.images
        await self.plane.control.database.transaction(
            lambda tx: images.publish(tx, image_id, disk_size_mb=5 * 1024)
        )


@pytest.fixture
async def fleet(data_dir: Path, pki: Path, database_url: str, tmp_path: Path) -> AsyncIterator[Fleet]:
    environment = {
        **environment_of(data_dir, database_url),
        "WRENN_STORE": (tmp_path / "store").as_uri(),
        # The hosts' sandboxes are unknown to the control plane.
        "WRENN_UNKNOWN_GRACE_S": "600",
    }
    settings = replace(Settings.from_environment(environment), lease_s=600.0)
    key = await make_team(database_url, "ada")
    async with (
        agent_host(tmp_path / "a") as maker,
        agent_host(tmp_path / "b") as other,
        running_control_plane(settings, key) as plane,
    ):
        await maker.join(plane.url, database_url)
        await other.join(plane.url, database_url, name="other")
        yield Fleet(plane, maker, other)
        arm_faults("")


async def test_a_create_on_another_host_fetches_the_image_that_was_made_of_a_sandbox(fleet: Fleet) -> None:
    maker, other = fleet.maker.agent, fleet.other.agent
    spec, sandbox = await created(maker.sandboxes)
    await output(sandbox, "echo built >/root/file")
    await maker.sandboxes.pause(spec.sandbox_id)
    image_id = await fleet.begun()
    with fleet.plane.control.images.renewing_lease(image_id):
        # Attempts that fail before and after the upload, and one that goes on with what is there.
        for point in ("agent.image.before_upload", "agent.image.after_upload"):
            arm_faults(f"{point}=error")
            status = await maker.images.ensure(image_id, DiskSource(spec.sandbox_id), upload=True, wait_s=60)
            assert status.failure is not None
            assert (await maker.images.ensure(image_id, StoredSource())).ready is not None, (
                "but not in the store"
            )
        arm_faults("")
        status = await maker.images.ensure(image_id, DiskSource(spec.sandbox_id), upload=True, wait_s=60)
        assert status.ready is not None, status.failure
        assert status.ready.facts.uploaded
        await fleet.published(image_id)

    (one, first), (two, _) = await asyncio.gather(
        *(created(other.sandboxes, template=str(image_id)) for _ in range(2))
    )
    assert await output(first, "cat /root/file") == "built\n"
    fetched = ImageFolder(other.layout.images).find(image_id)
    assert fetched.facts.uploaded
    assert fetched.allocated_b < 64 << 20, "its holes are holes here too"
    for new in (one, two):
        await other.sandboxes.remove(new.sandbox_id)
    with pytest.raises(NotFound):
        await created(other.sandboxes, template=str(ImageId.new()))
    await maker.sandboxes.remove(spec.sandbox_id)
    for agent in (maker, other):
        await agent.images.remove(image_id)
        assert ImageFolder(agent.layout.images).drafts() == []
        assert agent.images.list() == []
