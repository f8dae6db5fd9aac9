"""The SDKs of e2b build templates."""

from __future__ import annotations

import pytest

from tests.e2b.node_sdk import NodeSdk
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


@pytest.mark.parametrize("name", node_scenarios_in("templates"))
async def test_templates_with_node(node: NodeSdk, name: str) -> None:
    await node.run_named("templates", name)
