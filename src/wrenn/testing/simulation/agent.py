"""A real agent on a simulated world, which can be killed between any two steps and replaced by another one."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import AsyncGenerator, Callable, Coroutine
from contextlib import asynccontextmanager, suppress
from contextvars import copy_context
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from wrenn.agent.guest_tokens import Tokens
from wrenn.agent.layout import Layout
from wrenn.agent.parts import Parts
from wrenn.agent.settings import Settings
from wrenn.agent.wiring import Agent, running_agent
from wrenn.network import Block
from wrenn.testing.simulation.driver import InProcessDriver, MemoryBaseMaker, MemoryConfiner
from wrenn.testing.simulation.slots import SLOTS, MemorySlots
from wrenn.testing.simulation.world import AgentRun, World
from wrenn.testing.virtual_time import VirtualTimeLoop

_T = TypeVar("_T")


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
            bases=MemoryBaseMaker(),
            sandbox_limit=SLOTS,
            clock=self._world.clock,
        )


class AgentKilled(Exception):
    """The agent was killed while it carried out a call."""


class SimulatedAgent:
    """The agent of one world: its current run, if it runs.

    A killed agent takes itself apart in a copy of its data folder that nobody uses any more, and all that it tries to do in the
    world fails: what a dead process had not done stays undone.

    Attributes:
        data_dir: the data folder of the current run. Each run after a kill has a new one, with the content of the former one.
    """

    def __init__(self, world: World, folder: Path) -> None:
        self._world = world
        self._folder = folder
        self._generation = 0
        self._run = AgentRun()
        self._life: asyncio.Task[None] | None = None
        self._calls: dict[asyncio.Task[Any], None] = {}
        self._context = copy_context()
        self._ready: asyncio.Future[Agent]
        self._stop = asyncio.Event()
        self._killed: list[asyncio.Task[None]] = []
        self.data_dir = folder / "0"

    @property
    def is_running(self) -> bool:
        """Whether an agent runs or starts."""
        return self._life is not None

    @property
    def is_ready(self) -> bool:
        """Whether an agent runs that has recovered what a former one left."""
        return self._life is not None and self._ready.done()

    def agent(self) -> Agent:
        """Return the current agent, which has started."""
        return self._ready.result()

    async def start(self) -> None:
        """Start an agent, which recovers what a former one left.

        Raises:
            AgentKilled: it was killed meanwhile.
        """
        assert self._life is None, "it runs already"
        self._run = AgentRun()
        with self._world.running(self._run):
            self._context = copy_context()
        loop = asyncio.get_running_loop()
        self._ready, self._stop = loop.create_future(), asyncio.Event()
        self._life = loop.create_task(self._live(), name="agent", context=self._context)
        await asyncio.wait({self._ready, self._life}, return_when=asyncio.FIRST_COMPLETED)
        if self._run.is_dead:
            raise AgentKilled
        if not self._ready.done():
            await self._life

    async def _live(self) -> None:
        settings = Settings.from_environment(
            {
                "WRENN_DATA_DIR": str(self.data_dir),
                "WRENN_AGENT_METRICS_LISTEN": "off",
                "WRENN_WARM_TEMPLATE": "",
                "WRENN_DISK_RESERVE_MB": "1",
            }
        )
        async with running_agent(settings, WorldHost(self._world)) as agent:
            self._ready.set_result(agent)
            await self._stop.wait()

    async def call(self, work: Callable[[Agent], Coroutine[Any, Any, _T]]) -> _T:
        """Have the agent do something.

        Raises:
            AgentKilled: it was killed meanwhile, and what it did is unknown.
        """
        run = self._run
        if not self.is_ready:
            raise AgentKilled
        task = asyncio.get_running_loop().create_task(work(self.agent()), context=self._context)
        self._calls[task] = None
        task.add_done_callback(lambda done: self._calls.pop(done, None))
        try:
            return await task
        except BaseException as error:
            if run.is_dead:
                raise AgentKilled from error
            raise

    async def stop(self) -> None:
        """Stop the agent as a service manager does; its machines keep running. Idempotent."""
        if self._life is not None:
            self._stop.set()
            life, self._life = self._life, None
            await life

    def kill(self) -> None:
        """Kill the agent at once, as `kill -9` does."""
        if self._life is None:
            return
        self._run.is_dead = True
        self._generation += 1
        former, self.data_dir = self.data_dir, self._folder / str(self._generation)
        if former.exists():
            shutil.copytree(former, self.data_dir, symlinks=True)
        self._world.network.reset()
        for task in (*self._calls, self._life):
            task.cancel()
        self._killed.append(self._life)
        self._life = None

    def kill_at_step(self, loop: VirtualTimeLoop, step: int) -> None:
        """Kill the current run of the agent between two turns of the loop, unless it has ended by then."""
        loop.call_at_step(step, partial(self._kill_run, self._run))

    def kill_at_answer(self, count: int) -> None:
        """Kill the current run when the machine has done something for it for the `count`-th time and it does not know that yet."""
        self._world.call_at_answer(count, partial(self._kill_run, self._run))

    def _kill_run(self, run: AgentRun) -> None:
        if self._run is run:
            self.kill()

    async def close(self) -> None:
        """Stop the agent and wait for the ends of killed ones."""
        await self.stop()
        for life in self._killed:
            with suppress(asyncio.CancelledError, Exception):
                await life
