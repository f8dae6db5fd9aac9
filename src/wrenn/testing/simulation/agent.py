"""A real agent on a simulated world, which can be killed between any two steps and replaced by another one."""

from __future__ import annotations

import shutil
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

from wrenn.agent.guest_tokens import Tokens
from wrenn.agent.layout import Layout
from wrenn.agent.parts import Parts
from wrenn.agent.settings import Settings
from wrenn.agent.wiring import Agent, running_agent
from wrenn.network import Block
from wrenn.storage.images import ImageFolder
from wrenn.testing.simulation.driver import InProcessDriver, MemoryBaseMaker, MemoryConfiner
from wrenn.testing.simulation.program import Program
from wrenn.testing.simulation.runs import Run
from wrenn.testing.simulation.slots import SLOTS, MemorySlots
from wrenn.testing.simulation.world import World


class WorldHost:
    """A simulated world as the machine of an agent. Implements `wrenn.agent.parts.Host`."""

    def __init__(self, world: World) -> None:
        self._world = world

    def layout(self, settings: Settings) -> Layout:
        """Return the layout; no names on the real machine are claimed."""
        settings.data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        return Layout(settings.data_dir, Block(0))

    @asynccontextmanager
    async def parts(self, settings: Settings, layout: Layout, tokens: Tokens) -> AsyncGenerator[Parts]:
        """Build the parts."""
        del settings, tokens
        yield Parts(
            driver=InProcessDriver(self._world, layout.folders),
            slots=MemorySlots(self._world),
            confiner=MemoryConfiner(self._world),
            bases=MemoryBaseMaker(ImageFolder(layout.images)),
            sandbox_limit=SLOTS,
            clock=self._world.clock,
        )


class SimulatedAgent(Program[Agent]):
    """The agent of one world; its machines outlive it.

    A killed agent takes itself apart in a copy of its data folder that nobody uses any more.

    Attributes:
        data_dir: the data folder of the current run. Each run after a kill has a new one, with the content of the former one.
    """

    def __init__(
        self, world: World, folder: Path, name: str = "agent", environment: Mapping[str, str] | None = None
    ) -> None:
        super().__init__(name)
        self.world = world
        self._folder = folder
        self._environment = environment or {}
        self._generation = 0
        self.data_dir = folder / "0"

    def agent(self) -> Agent:
        """Return the current agent, which has started."""
        return self.current()

    @property
    def settings(self) -> Settings:
        """The settings of the current run."""
        return Settings.from_environment(
            {
                "WRENN_AGENT_METRICS_LISTEN": "off",
                "WRENN_WARM_TEMPLATE": "",
                "WRENN_DISK_RESERVE_MB": "1",
                # Hours of virtual time would be spent on samples.
                "WRENN_SAMPLE_INTERVAL_S": "0",
                **self._environment,
                "WRENN_DATA_DIR": str(self.data_dir),
            }
        )

    def _new_run(self) -> Run:
        return Run(place=self.world)

    @asynccontextmanager
    async def _running(self) -> AsyncGenerator[Agent]:
        async with running_agent(self.settings, WorldHost(self.world)) as agent:
            yield agent

    def _killed_now(self, run: Run) -> None:
        del run
        self._generation += 1
        former, self.data_dir = self.data_dir, self._folder / str(self._generation)
        if former.exists():
            shutil.copytree(former, self.data_dir, symlinks=True)
        self.world.network.reset()

    def kill_at_answer(self, count: int) -> None:
        """Kill the current run when the machine has done something for it for the `count`-th time and it does not know that yet."""
        self.world.call_at_answer(count, partial(self.kill_run, self._run))
