"""The Node SDK of e2b: sandboxes, commands and files."""

from __future__ import annotations

import pytest

from tests.e2b.node_sdk import NodeSdk, scenarios_in

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest.mark.parametrize("name", scenarios_in("sandboxes"))
async def test_node(node: NodeSdk, name: str) -> None:
    await node.run_named("sandboxes", name)


@pytest.mark.parametrize("name", scenarios_in("guest"))
async def test_node_in_the_guest(node: NodeSdk, name: str) -> None:
    await node.run_named("guest", name)
