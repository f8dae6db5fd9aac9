"""Ports of sandboxes that the SDKs of e2b made."""

from __future__ import annotations

import pytest

from tests.e2b.python_sdks import PythonSdk, Scenario, scenarios_in
from tests.e2b.scenarios import ports

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest.mark.parametrize("scenario", scenarios_in(ports), ids=lambda each: each.__name__)
async def test_ports(sdk: PythonSdk, scenario: Scenario) -> None:
    await sdk.run(scenario)
