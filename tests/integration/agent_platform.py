"""A control plane with a real agent over the simulated driver, for the tests of what the two do together."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass

from wrenn.base.secrets import Secret
from wrenn.control.settings import Settings
from wrenn.testing.agent_host import AgentHost

from .conftest import ControlPlane, running_control_plane


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
