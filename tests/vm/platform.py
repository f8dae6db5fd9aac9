"""A whole platform in processes of its own: PostgreSQL, agent, control plane; each can be killed and started again."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import httpx2

from wrenn.agent.doctor import Leftover, Report, examine
from wrenn.agent.doctor.leftovers import find_leftovers
from wrenn.agent.doctor.owners import find_owners
from wrenn.agent.layout import Layout
from wrenn.agent.local_client import agent_answers
from wrenn.agent.settings import Settings
from wrenn.base.stack_dumps import SIGNAL as STACK_DUMP_SIGNAL
from wrenn.cli.up.options import Address
from wrenn.cli.up.registration import ensure_registration
from wrenn.control.db import embedded
from wrenn.control.db.migrate import migrate
from wrenn.control.identity.bootstrap import bootstrap
from wrenn.network import find_block
from wrenn.testing.fork_server import ForkedProgram, start_program
from wrenn.testing.server import free_port

START_TIMEOUT_S = 60.0
SETTLE_TIMEOUT_S = 60.0
STOP_TIMEOUT_S = 45.0
POLL_S = 0.05
STACK_DUMP_S = 1.0
_OF_THE_HOST = (
    "WRENN_VMM",
    "WRENN_FIRECRACKER_DIR",
    "WRENN_FIRECRACKER_MEMORY",
    "WRENN_START_LIMIT_S",
    "WRENN_KVM_PROBE_S",
)
"""Settings that are those of the whole run: which monitor is tested, and on how slow a host."""

PARTS = ("agent", "control")


@dataclass(slots=True)
class Platform:
    """Its parts by name: `agent`, `control`; PostgreSQL is embedded.

    Attributes:
        measured: its programs are executed, as in production; else they are forked, which is faster.
        armable: `arm` works on a part that runs. Each fault point then reads a file, so not where times are measured.
        control_environment: more settings of the control plane.
    """

    data_dir: Path
    images_dir: Path
    api_port: int = field(default_factory=free_port)
    agent_port: int = field(default_factory=free_port)
    database_url: str = ""
    key: str = ""
    private_networks: str = ""
    insecure_registries: str = ""
    measured: bool = False
    armable: bool = False
    control_environment: dict[str, str] = field(default_factory=dict[str, str])
    processes: dict[str, subprocess.Popen[bytes] | ForkedProgram] = field(
        default_factory=dict[str, "subprocess.Popen[bytes] | ForkedProgram"]
    )

    @property
    def base_url(self) -> str:
        return f"http://127.0.0.1:{self.api_port}"

    @property
    def settings(self) -> Settings:
        return Settings.from_environment(self.environment())

    @property
    def layout(self) -> Layout:
        """Where the agent has what."""
        block = find_block(self.data_dir)
        assert block is not None, "an agent has started here"
        return Layout(self.data_dir, block)

    def environment(self, name: str = "agent") -> dict[str, str]:
        return {
            "PATH": os.environ["PATH"],
            "WRENN_DATA_DIR": str(self.data_dir),
            "WRENN_IMAGES_DIR": str(self.images_dir),
            "WRENN_LISTEN": f"127.0.0.1:{self.api_port}",
            "WRENN_AGENT_LISTEN": f"127.0.0.1:{self.agent_port}",
            "WRENN_CP_URL": self.base_url,
            "WRENN_READY_SLOTS": "2",
            # The tests boot what they need.
            "WRENN_WARM_TEMPLATE": "",
            # Short, so that tests which kill processes need not wait long until another worker goes on.
            "WRENN_LEASE_S": "5",
            "WRENN_UNKNOWN_GRACE_S": "4",
            "WRENN_GUEST_PRIVATE_NETWORKS": self.private_networks,
            "WRENN_INSECURE_REGISTRIES": self.insecure_registries,
            "DATABASE_URL": self.database_url,
            "WRENN_FAULTS": f"@{self._armed(name)}" if self.armable else "",
            **{name: os.environ[name] for name in _OF_THE_HOST if name in os.environ},
            **(self.control_environment if name == "control" else {}),
        }

    async def prepare(self) -> None:
        """Database, registration of the host, first key."""
        await self.start_database()
        await migrate(self.database_url)
        await ensure_registration(self.data_dir, self.database_url, Address("127.0.0.1", self.api_port))
        self.key = (await bootstrap(self.database_url)).reveal()

    async def start_database(self) -> None:
        self.database_url = await embedded.ensure_running(self.data_dir)

    def _armed(self, name: str) -> Path:
        return self.data_dir / f"{name}.faults"

    def arm(self, name: str, faults: str) -> None:
        """Arm these fault points of a part, instead of those before; the part's next start disarms them."""
        assert self.armable, "this platform was started without fault points"
        new = self._armed(name).with_suffix(".new")
        new.write_text(faults)
        new.rename(self._armed(name))

    @asynccontextmanager
    async def held(self, name: str, point: str) -> AsyncGenerator[asyncio.Task[None]]:
        """A context in which a part waits at this point. Await what it returns before anything is done there."""
        reached = self.data_dir / f"{point}.held"
        self.arm(name, f"{point}=hold:{reached}")
        waiting = asyncio.create_task(self._wait_exists(reached))
        try:
            yield waiting
        finally:
            waiting.cancel()
            self.arm(name, "")
            reached.unlink(missing_ok=True)

    async def _wait_exists(self, path: Path) -> None:
        async with asyncio.timeout(SETTLE_TIMEOUT_S):
            while not path.exists():
                await asyncio.sleep(POLL_S)

    def start(self, name: str) -> None:
        """Start `agent` or `control` with no fault armed; `wait_ready` says when they serve."""
        assert name not in self.processes, f"{name} already runs"
        if self.armable:
            self.arm(name, "")
        log = (self.data_dir / f"{name}.log").open("ab")
        with log:
            if self.measured:
                self.processes[name] = subprocess.Popen(
                    [sys.executable, "-m", "wrenn.cli.main", name],
                    env=self.environment(name),
                    stdout=log,
                    stderr=log,
                    start_new_session=True,
                )
            else:
                self.processes[name] = start_program(
                    "wrenn.cli.main:main", [name], environment=self.environment(name), stdout=log, stderr=log
                )

    async def kill(self, name: str) -> None:
        """`kill -9`."""
        process = self.processes.pop(name)
        process.kill()
        await asyncio.to_thread(process.wait)

    async def wait_killed(self, name: str) -> None:
        """Wait for a process that a fault point kills."""
        process = self.processes.pop(name)
        try:
            code = await asyncio.to_thread(process.wait, SETTLE_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            process.kill()
            raise
        assert code == -signal.SIGKILL, f"{name} ended with {code} instead of at its fault point"

    async def stop(self, name: str) -> None:
        """End it with SIGTERM, as a service manager does."""
        process = self.processes.pop(name, None)
        if process is not None:
            process.terminate()
            try:
                await asyncio.to_thread(process.wait, STOP_TIMEOUT_S)
            except subprocess.TimeoutExpired as error:
                process.send_signal(STACK_DUMP_SIGNAL)
                await asyncio.sleep(STACK_DUMP_S)
                process.kill()
                process.wait()
                raise AssertionError(f"{name} did not end at SIGTERM:\n{self.log(name)}") from error

    def describe(self) -> dict[str, str]:
        """What each part that runs is doing, as stacks, at the end of what it logged."""
        for process in self.processes.values():
            process.send_signal(STACK_DUMP_SIGNAL)
        time.sleep(STACK_DUMP_S)
        return {name: self.log(name, 40_000) for name in self.processes}

    async def wait_ready(self) -> None:
        """Until both parts serve."""
        async with asyncio.timeout(START_TIMEOUT_S), self.client() as api:
            while True:
                for name, process in self.processes.items():
                    assert process.poll() is None, f"{name} ended:\n{self.log(name)}"
                try:
                    if (await api.get("/health")).status_code == 200 and await agent_answers(
                        self.data_dir, timeout_s=START_TIMEOUT_S
                    ):
                        return
                except httpx2.TransportError:
                    pass
                await asyncio.sleep(POLL_S)

    def log(self, name: str, characters: int = 8000) -> str:
        return (self.data_dir / f"{name}.log").read_text(errors="replace")[-characters:]

    def client(self, *, key: str | None = None, timeout_s: float = 90) -> httpx2.AsyncClient:
        return httpx2.AsyncClient(
            base_url=self.base_url,
            headers={"X-API-Key": key or self.key},
            timeout=timeout_s,
            trust_env=False,
            # There is no TLS here, and reading the machine's certificates takes 40 ms.
            verify=False,
        )

    async def examine(self) -> Report:
        return await examine(self.settings)

    async def settled(self) -> None:
        """Until nothing is left over and no row is between two states."""
        seen: object = None
        try:
            async with asyncio.timeout(SETTLE_TIMEOUT_S), self.client() as api:
                while (seen := await self._unsettled(api)) is not None:
                    await asyncio.sleep(POLL_S)
        except TimeoutError as error:
            raise AssertionError(f"not settled: {seen}") from error

    async def _unsettled(self, api: httpx2.AsyncClient) -> object:
        """What is left over, or between two states; None when there is nothing."""
        try:
            rows: list[dict[str, Any]] = (await api.get("/v1/sandboxes")).json()
        except httpx2.TransportError as error:
            return error
        if unsettled := [row for row in rows if row["status"] not in ("running", "paused")]:
            return unsettled
        return await self._leftovers() or None

    async def _leftovers(self) -> list[Leftover]:
        """Those that `wrenn doctor` lists, without all else that it looks at."""
        found, _ = await find_leftovers(self.layout, partial(find_owners, self.layout))
        return found

    async def restore(self) -> None:
        """Make it as it was before a test: all parts run, no fault is armed, there is no sandbox and nothing left over."""
        await self.start_database()
        ended = [
            name for name in PARTS if name not in self.processes or self.processes[name].poll() is not None
        ]
        for name in PARTS:
            if name in ended:
                self.processes.pop(name, None)
                self.start(name)
            elif self.armable:
                self.arm(name, "")
        if ended:
            await self.wait_ready()
        await self.remove_sandboxes()
        await self.settled()

    async def remove_sandboxes(self) -> None:
        async with self.client() as api:
            for sandbox in (await api.get("/v1/sandboxes")).json():
                await api.delete(f"/v1/sandboxes/{sandbox['id']}")

    async def close(self) -> None:
        for name in list(self.processes):
            await self.stop(name)
        await embedded.stop(self.data_dir)


@asynccontextmanager
async def running_platform(
    data_dir: Path,
    images_dir: Path,
    *,
    private_networks: str = "",
    insecure_registries: str = "",
    measured: bool = False,
    armable: bool = False,
    control_environment: Mapping[str, str] | None = None,
) -> AsyncGenerator[Platform]:
    """A platform that serves; at the end its sandboxes are removed and all of it is stopped."""
    platform = Platform(
        data_dir,
        images_dir,
        private_networks=private_networks,
        insecure_registries=insecure_registries,
        measured=measured,
        armable=armable,
        control_environment=dict(control_environment or {}),
    )
    await platform.prepare()
    for name in PARTS:
        platform.start(name)
    try:
        await platform.wait_ready()
        yield platform
        await platform.remove_sandboxes()
    finally:
        await platform.close()
