"""The SDKs of e2b pause, resume, copy and keep sandboxes, and read what they use."""

from __future__ import annotations

import pytest

from tests.e2b.python_sdks import PythonSdk, Scenario, scenarios_in
from tests.e2b.scenarios import pausing

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest.mark.parametrize("scenario", scenarios_in(pausing), ids=lambda each: each.__name__)
async def test_pausing(sdk: PythonSdk, scenario: Scenario) -> None:
    await sdk.run(scenario)
