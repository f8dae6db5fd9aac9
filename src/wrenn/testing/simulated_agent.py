"""A real host agent over the simulated driver: no root, no hypervisor, real guest agents, real mutual TLS.

`ProcessHost` is given to one in the test's event loop, `AgentProcess` runs one as a separate process that can be killed.
Sandboxes outlive both: see `remove_everything`.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final

from wrenn.agent.guest_tokens import Tokens
from wrenn.agent.layout import Layout
from wrenn.agent.local_client import agent_answers
from wrenn.agent.main import main
from wrenn.agent.parts import Parts
from wrenn.agent.settings import Settings
from wrenn.cli.up.envd import find_envd
from wrenn.guest.connect import ENVD_PORT
from wrenn.network import Block
from wrenn.network.simulated import LoopbackSlots
from wrenn.storage.images import ImageFolder
from wrenn.testing.fork_server import ForkedProgram, start_program
from wrenn.testing.server import free_port
from wrenn.vm.simulated import TEMPLATES, FolderBaseMaker, ProcessGroups, SimulatedDriver

_GROUPS: Final = "groups"
SANDBOX_LIMIT: Final = 254
_START_TIMEOUT_S: Final = 20.0
_POLL_S: Final = 0.02


class ProcessHost:
    """This machine, with processes instead of virtual machines (`wrenn.agent.parts.Host`)."""

    def __init__(
        self,
        *,
        sandbox_limit: int = SANDBOX_LIMIT,
        templates: Mapping[str, str] = TEMPLATES,
        snapshot_b: int = 0,
        vmm: str = "simulated 1",
    ) -> None:
        self._sandbox_limit = sandbox_limit
        self._templates = templates
        self._snapshot_b = snapshot_b
        self._vmm = vmm

    def layout(self, settings: Settings) -> Layout:
        """Return the layout; no names on the machine are claimed."""
        settings.data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        return Layout(settings.data_dir, Block(0))

    @asynccontextmanager
    async def parts(self, settings: Settings, layout: Layout, tokens: Tokens) -> AsyncGenerator[Parts]:
        """Build the simulated parts."""
        del tokens
        driver = SimulatedDriver(
            folders=layout.folders,
            envd=find_envd(),
            port=ENVD_PORT,
            state_b=self._snapshot_b,
            vmm=self._vmm,
        )
        try:
            yield Parts(
                driver=driver,
                slots=LoopbackSlots(settings.data_dir, port=ENVD_PORT),
                confiner=groups_of(settings.data_dir),
                bases=FolderBaseMaker(ImageFolder(layout.images), self._templates),
                sandbox_limit=self._sandbox_limit,
            )
        finally:
            await driver.close()


def groups_of(data_dir: Path) -> ProcessGroups:
    """Return the processes of all sandboxes of an installation."""
    return ProcessGroups(data_dir / _GROUPS)


def agent_environment(data_dir: Path, *, port: int = 0, faults: str = "") -> dict[str, str]:
    """Return the settings for an agent in a test. Port 0: any free one."""
    return {
        "WRENN_DATA_DIR": str(data_dir),
        "WRENN_AGENT_LISTEN": f"127.0.0.1:{port}",
        "WRENN_AGENT_METRICS_LISTEN": "off",
        "WRENN_WARM_TEMPLATE": "",
        "WRENN_DISK_RESERVE_MB": "1",
        "WRENN_HEARTBEAT_S": "0.3",
        "WRENN_FAULTS": faults,
    }


async def remove_everything(data_dir: Path) -> None:
    """Kill all sandboxes of an installation whose agent no longer runs, and remove its folder. Idempotent."""
    if data_dir.exists():
        groups = groups_of(data_dir)
        for name in groups.names():
            await groups.release(name)
        shutil.rmtree(data_dir)


class Installation:
    """A data folder and a free port, on which one agent after the other can be started. It must be registered first.

    `AgentProcess` starts them as processes, `wrenn.testing.agent_host.AgentHost` in the test's event loop.
    """

    def __init__(self, data_dir: Path) -> None:
        data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.data_dir = data_dir
        self._port = free_port()

    @property
    def address(self) -> str:
        """`HOST:PORT` of the host API."""
        return f"127.0.0.1:{self._port}"

    @property
    def url(self) -> str:
        """The URL of the host API."""
        return f"https://{self.address}"

    def environment(self, *, faults: str = "") -> dict[str, str]:
        """Return the settings of an agent."""
        return agent_environment(self.data_dir, port=self._port, faults=faults)


class AgentProcess(Installation):
    """An agent as a separate process, on a data folder that outlives it. `settings` are further ones of its environment."""

    def __init__(self, data_dir: Path, **settings: str) -> None:
        super().__init__(data_dir)
        self._settings = settings
        self._process: ForkedProgram | None = None

    @property
    def log(self) -> Path:
        """The log of all agents on this folder."""
        return self.data_dir / "agent.log"

    async def start(self, *, faults: str = "", source: Path | None = None) -> None:
        """Start the agent with these fault points armed; returns when it serves. `source`: as of `start_program`."""
        self.begin(faults=faults, source=source)
        assert self._process is not None, "it was started"
        async with asyncio.timeout(_START_TIMEOUT_S):
            while not await agent_answers(self.data_dir, timeout_s=_START_TIMEOUT_S):
                if self._process.poll() is not None:
                    raise AssertionError(f"the agent ended: {self.log.read_text()[-4000:]}")
                await asyncio.sleep(_POLL_S)

    def begin(self, *, faults: str = "", source: Path | None = None) -> None:
        """Start the agent with these fault points armed, without waiting for anything."""
        assert self._process is None, "it runs already"
        with self.log.open("ab") as log:
            self._process = start_program(
                "wrenn.testing.simulated_agent:run",
                environment={
                    "PATH": os.environ["PATH"],
                    # Another release has no build of its own.
                    **({"WRENN_ENVD": str(find_envd())} if source is not None else {}),
                    **self.environment(faults=faults),
                    **self._settings,
                },
                source=source,
                stdout=log,
                stderr=log,
            )

    async def stop(self) -> None:
        """Stop it by SIGTERM, as a service manager does. Idempotent."""
        await self._end(signal.SIGTERM)

    async def kill(self) -> None:
        """`kill -9`."""
        await self._end(signal.SIGKILL)

    async def _end(self, number: signal.Signals) -> None:
        process, self._process = self._process, None
        if process is not None:
            process.send_signal(number)
            await process.wait_ended()

    async def wait_ended(self) -> int:
        """Wait until it ends by itself; return its exit code."""
        process, self._process = self._process, None
        assert process is not None, "it was started"
        async with asyncio.timeout(_START_TIMEOUT_S):
            return await process.wait_ended()

    async def wait_killed(self) -> None:
        """Wait until a fault point has killed it."""
        code = await self.wait_ended()
        assert code == -signal.SIGKILL, f"it ended with {code} instead of at its fault point"


def run() -> None:
    """Run the agent of this environment: what `AgentProcess` starts."""
    main(ProcessHost())
