"""The SDKs of e2b read, write, list and watch files."""

from __future__ import annotations

import pytest

from tests.e2b.python_sdks import PythonSdk, Scenario, scenarios_in
from tests.e2b.scenarios import files

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest.mark.parametrize("scenario", scenarios_in(files), ids=lambda each: each.__name__)
async def test_files(sdk: PythonSdk, scenario: Scenario) -> None:
    await sdk.run(scenario)
