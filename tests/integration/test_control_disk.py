"""The size of a sandbox's disk: what may be asked for, what keeps it, and making it larger."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from .conftest import Platform, refused
from .people import People

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(loop_scope="module")
async def shared(people: People) -> AsyncIterator[Platform]:
    """The module's platform, without sandboxes at the end."""
    platform = people.platform
    yield platform
    for sandbox in (await platform.api.get("/v1/sandboxes")).json():
        await platform.api.delete(f"/v1/sandboxes/{sandbox['id']}")


def disk_on_host(platform: Platform, path: str) -> int:
    """The size of the sandbox's disk on its host, in MB."""
    record = platform.host.record(path.rsplit("/", 1)[1])
    return record.disk_mb or record.spec.disk_mb


async def test_a_disk_has_the_size_of_the_request_and_copies_have_it_too(shared: Platform):
    path = await shared.create(disk_size_mb=20_480)
    assert (await shared.api.get(path)).json()["disk_size_mb"] == disk_on_host(shared, path) == 20_480
    copy = (await shared.api.post(f"{path}/fork", json={})).json()["sandboxes"][0]
    assert copy["disk_size_mb"] == disk_on_host(shared, f"/{copy['id']}") == 20_480
    made = await shared.api.post(
        "/v1/snapshots", json={"sandbox_id": path.rsplit("/", 1)[1], "name": "large"}
    )
    assert (made.status_code, made.json()["disk_size_mb"]) == (201, 20_480)
    for size in ({}, {"disk_size_mb": 20_480}):
        restored = await shared.create(template="large", **size)
        assert disk_on_host(shared, restored) == 20_480
    for size_mb in (5120, 30_000):
        answer = await shared.api.post("/v1/sandboxes", json={"template": "large", "disk_size_mb": size_mb})
        refused(answer, 400, "invalid_request")
        assert "has 20480, not" in answer.text


async def test_a_size_that_no_disk_can_have_is_refused(shared: Platform):
    for size_mb in (0, 1024, 5119, 65_537, 2**40):
        refused(
            await shared.api.post("/v1/sandboxes", json={"disk_size_mb": size_mb}), 400, "invalid_request"
        )
    for wrong in ("5120", 5120.5, None):
        answer = await shared.api.post("/v1/sandboxes", json={"disk_size_mb": wrong})
        assert answer.status_code == (201 if wrong is None else 400)


async def test_a_disk_is_made_larger_and_never_smaller(shared: Platform):
    path = await shared.create()
    larger = await shared.api.patch(f"{path}/disk", json={"disk_size_mb": 8000})
    assert (larger.status_code, larger.json()["disk_size_mb"]) == (200, 8000)
    assert disk_on_host(shared, path) == 8000
    for size_mb in (5120, 7999, 65_537):
        refused(
            await shared.api.patch(f"{path}/disk", json={"disk_size_mb": size_mb}), 400, "invalid_request"
        )
    refused(await shared.api.patch(f"{path}/disk", json={}), 400, "invalid_request")
    assert (await shared.api.patch(f"{path}/disk", json={"disk_size_mb": 8000})).status_code == 200
    await shared.api.post(f"{path}/pause")
    paused = await shared.api.patch(f"{path}/disk", json={"disk_size_mb": 9000})
    assert (paused.json()["disk_size_mb"], paused.json()["status"]) == (9000, "paused")
    await shared.api.delete(path)
    refused(await shared.api.patch(f"{path}/disk", json={"disk_size_mb": 9001}), 409, "invalid_state")
