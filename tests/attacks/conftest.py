"""One platform for all attacks, with a neighbour that must not notice them."""

from __future__ import annotations

import asyncio
import os
import shutil
import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
import pytest_asyncio

from tests.attacks.kit import Target, new_target
from tests.installations import remove_installation
from tests.vm.platform import Platform, running_platform
from wrenn.storage.images import load_images


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Everything here needs root and a hypervisor."""
    here = Path(__file__).parent
    for item in items:
        if here in item.path.parents:
            item.add_marker(pytest.mark.vm)
            item.add_marker(pytest.mark.timeout(240))
            if os.geteuid() != 0:
                item.add_marker(pytest.mark.skip(reason="virtual machines need root"))


@pytest.fixture(scope="module")
def data_dir() -> Iterator[Path]:
    """A data folder of this module. Short, because control sockets live below it."""
    folder = Path(tempfile.mkdtemp(prefix="wrenn-attack-"))
    yield folder
    asyncio.run(remove_installation(folder))
    shutil.rmtree(folder)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def platform(data_dir: Path) -> AsyncIterator[Platform]:
    """A whole platform in processes of its own."""
    images = Path(os.environ.get("WRENN_IMAGES_DIR", "/var/lib/wrenn"))
    load_images(images)
    async with running_platform(data_dir, images) as platform:
        yield platform


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def neighbour(platform: Platform) -> AsyncIterator[Target]:
    """A sandbox on the same host that goes on working."""
    async with new_target(platform) as target:
        yield target


@pytest_asyncio.fixture(loop_scope="module")
async def target(platform: Platform, neighbour: Target) -> AsyncIterator[Target]:
    """A sandbox of the attacker."""
    async with new_target(platform) as target:
        yield target
