"""Runs tests of tests/vm in the host machine, each with an agent of its own, as the fixtures of tests/vm do."""

from __future__ import annotations

import importlib
import inspect
import shutil
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

from tests.vm.kit import DEFAULT_SHAPE
from wrenn.agent.settings import Settings
from wrenn.agent.wiring import Agent, running_agent
from wrenn.base.ids import SnapshotId


async def prepare(driver_dir: Path, environment: Mapping[str, str]) -> None:
    """Make a data folder with the bases and the accelerator of a driver's, so that nothing is booted again, and start an agent once."""
    settings = Settings.from_environment(environment)
    settings.data_dir.mkdir(mode=0o700)
    shutil.copytree(driver_dir / "bases", settings.data_dir / "bases", copy_function=_link)
    for name in ("agent.key", settings.accelerator_choice.name):
        if (driver_dir / name).exists():  # Firecracker has no choice of accelerators
            shutil.copyfile(driver_dir / name, settings.data_dir / name)
    (settings.data_dir / "agent.key").chmod(0o600)
    async with running_agent(settings) as agent:
        made = await agent.bases.get("minimal", DEFAULT_SHAPE)
        assert [path.name for path in (driver_dir / "bases").iterdir()] == [made.key]


def _link(source: str, target: str) -> None:
    path = Path(source)
    if path.is_file():  # a base also has the socket of the VM that made it
        Path(target).hardlink_to(path)


async def run_test(module: str, name: str, environment: Mapping[str, str]) -> None:
    """Run one test, which wants the fixtures `agent` or `settings`."""
    function = getattr(importlib.import_module(module), name)
    settings = Settings.from_environment(environment)
    wanted = set(inspect.signature(function).parameters)
    assert wanted <= {"agent", "settings"}, f"{name} wants other fixtures: {wanted}"
    if "agent" not in wanted:
        await function(settings=settings)
        return
    async with _agent(settings) as agent:
        given = {"agent": agent, "settings": settings}
        await function(**{fixture: given[fixture] for fixture in wanted})


@asynccontextmanager
async def _agent(settings: Settings) -> AsyncGenerator[Agent]:
    """A running agent; afterwards its sandboxes and snapshots are removed."""
    async with running_agent(settings) as agent:
        try:
            yield agent
        finally:
            for record, _ in agent.sandboxes.list():
                await agent.sandboxes.remove(record.spec.sandbox_id)
            for snapshot in agent.sandboxes.list_snapshots():
                agent.sandboxes.remove_snapshot(SnapshotId.parse(snapshot.manifest.snapshot_id))
