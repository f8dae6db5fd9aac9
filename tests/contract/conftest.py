"""The platform that the SDK and the command are tested on: a real control plane, and a real agent over the simulated driver."""

from __future__ import annotations

from pathlib import Path

import pytest
from sdk_clients import Platform

from tests.integration import conftest as integration

data_dir = integration.data_dir
pki = integration.pki
template_url = integration.template_url
platform_of_module = integration.platform_of_module
team_platform = integration.team_platform


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip what the simulated driver cannot do."""
    integration.skip_without_capability(items, Path(__file__).parent)


@pytest.fixture
def platform(team_platform: integration.Platform, monkeypatch: pytest.MonkeyPatch) -> Platform:
    """A live platform with the key of a team that only this test has, named by the environment too."""
    url, key = team_platform.url, team_platform.key.reveal()
    monkeypatch.setenv("WRENN_BASE_URL", url)
    monkeypatch.setenv("WRENN_API_KEY", key)
    return Platform(url, key)
