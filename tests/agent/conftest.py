"""An agent of each test's own, on a data folder that outlives it."""

from __future__ import annotations

import asyncio
import shutil
import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from tests.agent.memory_store import MemoryStore, connected
from wrenn.agent.settings import Settings
from wrenn.agent.wiring import Agent, running_agent
from wrenn.control.hosts.pki import ensure_pki
from wrenn.testing.simulated_agent import ProcessHost, agent_environment, remove_everything


@pytest.fixture(scope="session")
def pki() -> Iterator[Path]:
    """Certificates of an internal CA."""
    folder = Path(tempfile.mkdtemp(prefix="wrenn-pki-"))
    ensure_pki(folder)
    yield folder
    shutil.rmtree(folder)


@pytest.fixture
def data_dir(tmp_path: Path) -> Iterator[Path]:
    """A data folder; at the end no guest of it is left."""
    folder = tmp_path / "data"
    yield folder
    asyncio.run(remove_everything(folder))


@pytest.fixture
def settings(data_dir: Path) -> Settings:
    return Settings.from_environment(agent_environment(data_dir))


@pytest.fixture
async def agent(settings: Settings) -> AsyncIterator[Agent]:
    async with running_agent(settings, ProcessHost()) as agent:
        yield agent


@pytest.fixture
def store() -> MemoryStore:
    return MemoryStore()


@pytest.fixture
def other_settings(tmp_path: Path) -> Iterator[Settings]:
    """Settings of a second agent."""
    folder = tmp_path / "other"
    yield Settings.from_environment(agent_environment(folder))
    asyncio.run(remove_everything(folder))


@pytest.fixture
async def source(settings: Settings, store: MemoryStore) -> AsyncIterator[Agent]:
    async with connected(settings, store) as agent:
        yield agent


@pytest.fixture
async def target(other_settings: Settings, store: MemoryStore) -> AsyncIterator[Agent]:
    async with connected(other_settings, store) as agent:
        yield agent
