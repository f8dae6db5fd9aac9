"""The SDKs of e2b build templates."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from tests.e2b.conftest import E2bPlatform
from tests.e2b.node_sdk import NodeSdk, install
from tests.e2b.node_sdk import scenarios_in as node_scenarios_in
from tests.e2b.python_sdks import OLDER, PythonSdk, Scenario, scenarios_in
from tests.e2b.scenarios import templates

_WITH_BOTH = (templates.build_with_steps_and_files, templates.tags)
"""A build takes seconds."""

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest.mark.parametrize("scenario", scenarios_in(templates), ids=lambda each: each.__name__)
async def test_templates(sdk: PythonSdk, scenario: Scenario) -> None:
    if sdk.release == OLDER and scenario not in _WITH_BOTH:
        pytest.skip("the requests are those of the newest release")
    await sdk.run(scenario)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def node(platform: E2bPlatform) -> AsyncIterator[NodeSdk]:
    install()
    started = NodeSdk()
    started.environment = platform.environment
    yield started
    await started.close()


@pytest.mark.parametrize("name", node_scenarios_in("templates"))
async def test_templates_with_node(node: NodeSdk, name: str) -> None:
    await node.run_named("templates", name)
