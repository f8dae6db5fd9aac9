"""A control plane with a real agent over the simulated driver, for the tests of what the two do together.

A module whose tests run on it takes the fixtures from here: `host = agent_platform.host`, and so on.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from wrenn.agent.inventory import measure
from wrenn.base.faults import arm_faults
from wrenn.base.secrets import Secret
from wrenn.control.settings import Settings
from wrenn.testing.agent_host import AgentHost, running_agent_host

from .conftest import ControlPlane, make_team, running_control_plane


@dataclass
class AgentPlatform(ControlPlane):
    """A control plane with its host."""

    host: AgentHost


@asynccontextmanager
async def running_agent_platform(
    settings: Settings, host: AgentHost, key: Secret
) -> AsyncGenerator[AgentPlatform]:
    """The control plane in this process, served on loopback."""
    async with running_control_plane(settings, key) as control:
        yield AgentPlatform(**vars(control), host=host)


def with_memory(settings: Settings, memory_b: int) -> Settings:
    """So much may be promised, on whatever machine this is."""
    return replace(settings, memory_overcommit=memory_b / measure(settings.data_dir).memory_b)


@pytest.fixture
async def host(tmp_path: Path, pki: Path) -> AsyncIterator[AgentHost]:
    """A host of the test's own."""
    async with running_agent_host(tmp_path / "agent", pki) as host:
        yield host


@pytest.fixture
async def platform(settings: Settings, host: AgentHost, database_url: str) -> AsyncIterator[AgentPlatform]:
    """A platform with this host; `api` has the key of the team `ada`."""
    async with running_agent_platform(settings, host, await make_team(database_url, "ada")) as platform:
        yield platform


@pytest.fixture
async def second_platform(platform: AgentPlatform) -> AsyncIterator[AgentPlatform]:
    """A second replica on the same database."""
    async with running_agent_platform(replace(platform.settings), platform.host, platform.key) as second:
        yield second


@pytest.fixture
def disarmed() -> Iterator[None]:
    """No fault outlives its test."""
    yield
    arm_faults("")
