"""The Node SDK of e2b: sandboxes, commands and files."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from tests.e2b.conftest import E2bPlatform
from tests.e2b.node_sdk import NodeSdk, install, scenarios_in

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def node(platform: E2bPlatform) -> AsyncIterator[NodeSdk]:
    install()
    started = NodeSdk()
    started.environment = platform.environment
    yield started
    await started.close()


@pytest.mark.parametrize("name", scenarios_in("sandboxes"))
async def test_node(node: NodeSdk, name: str) -> None:
    await node.run_named("sandboxes", name)
