"""The platform that the SDK and the command are tested on: a real control plane, and a real agent over the simulated driver.

There is one platform, one team and, for tests that leave it as usable as it was, one sandbox of each client a module.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
import pytest_asyncio
from sdk_clients import CLIENTS, Box, Client, Platform

from tests.integration import conftest as integration

data_dir = integration.data_dir
pki = integration.pki
template_url = integration.template_url
lease_of_module_s = integration.lease_of_module_s
platform_of_module = integration.platform_of_module


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip what the simulated driver cannot do."""
    integration.skip_without_capability(items, Path(__file__).parent)


@pytest.fixture(scope="module")
def platform(platform_of_module: integration.Platform) -> Iterator[Platform]:
    """A live platform, named by the environment too."""
    url, key = platform_of_module.url, platform_of_module.key.reveal()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("WRENN_BASE_URL", url)
        patch.setenv("WRENN_API_KEY", key)
        yield Platform(url, key)


@pytest.fixture(scope="module", params=CLIENTS, ids=["async", "sync"])
def client(request: pytest.FixtureRequest) -> Client:
    return request.param()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def shared_box(platform: Platform, client: Client) -> AsyncIterator[Box]:
    """A sandbox that tests share; no test ends or pauses it."""
    box = await client.create()
    yield box
    await box.kill()


@pytest_asyncio.fixture(loop_scope="module")
async def box(platform: Platform, client: Client) -> AsyncIterator[Box]:
    """A sandbox of the test's own."""
    box = await client.create()
    yield box
    await box.kill()
