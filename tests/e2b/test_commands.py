"""The SDKs of e2b run commands and terminals."""

from __future__ import annotations

import pytest

from tests.e2b.python_sdks import PythonSdk, Scenario, scenarios_in
from tests.e2b.scenarios import commands

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest.mark.parametrize("scenario", scenarios_in(commands), ids=lambda each: each.__name__)
async def test_commands(sdk: PythonSdk, scenario: Scenario) -> None:
    await sdk.run(scenario)
