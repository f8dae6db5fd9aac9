"""A whole platform in processes of its own: PostgreSQL, agent, control plane; each can be killed and started again."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx2

from wrenn.agent.doctor import Report, examine
from wrenn.agent.settings import Settings
from wrenn.base.stack_dumps import SIGNAL as STACK_DUMP_SIGNAL
from wrenn.control.db import embedded
from wrenn.control.db.migrate import migrate
from wrenn.control.hosts.pki import ensure_pki
from wrenn.control.teams import bootstrap
from wrenn.testing.server import free_port

START_TIMEOUT_S = 60.0
SETTLE_TIMEOUT_S = 60.0
STOP_TIMEOUT_S = 45.0
POLL_S = 0.05


@dataclass(slots=True)
class Platform:
    """Its parts by name: `agent`, `control`; PostgreSQL is embedded."""

    data_dir: Path
    images_dir: Path
    api_port: int = field(default_factory=free_port)
    agent_port: int = field(default_factory=free_port)
    database_url: str = ""
    key: str = ""
    private_networks: str = ""
    processes: dict[str, subprocess.Popen[bytes]] = field(
        default_factory=dict[str, "subprocess.Popen[bytes]"]
    )

    @property
    def base_url(self) -> str:
        return f"http://127.0.0.1:{self.api_port}"

    @property
    def settings(self) -> Settings:
        return Settings.from_environment(self.environment())

    def environment(self, *, faults: str = "") -> dict[str, str]:
        return {
            "PATH": os.environ["PATH"],
            "WRENN_DATA_DIR": str(self.data_dir),
            "WRENN_IMAGES_DIR": str(self.images_dir),
            "WRENN_LISTEN": f"127.0.0.1:{self.api_port}",
            "WRENN_AGENT_LISTEN": f"127.0.0.1:{self.agent_port}",
            "WRENN_AGENT_URL": f"https://127.0.0.1:{self.agent_port}",
            "WRENN_READY_SLOTS": "2",
            # The tests boot what they need.
            "WRENN_WARM_TEMPLATE": "",
            # Short, so that tests which kill processes need not wait long until another worker goes on.
            "WRENN_LEASE_S": "5",
            "WRENN_UNKNOWN_GRACE_S": "4",
            "WRENN_GUEST_PRIVATE_NETWORKS": self.private_networks,
            "DATABASE_URL": self.database_url,
            "WRENN_FAULTS": faults,
        }

    async def prepare(self) -> None:
        """Database, certificates, first key."""
        await self.start_database()
        await migrate(self.database_url)
        ensure_pki(self.data_dir / "pki")
        self.key = (await bootstrap(self.database_url)).reveal()

    async def start_database(self) -> None:
        self.database_url = await embedded.ensure_running(self.data_dir)

    def start(self, name: str, *, faults: str = "") -> None:
        """Start `agent` or `control`; `wait_ready` says when they serve."""
        assert name not in self.processes, f"{name} already runs"
        log = (self.data_dir / f"{name}.log").open("ab")
        with log:
            self.processes[name] = subprocess.Popen(
                [sys.executable, "-m", "wrenn.cli.main", name],
                env=self.environment(faults=faults),
                stdout=log,
                stderr=log,
                start_new_session=True,
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
                await asyncio.sleep(1)
                process.kill()
                process.wait()
                raise AssertionError(f"{name} did not end at SIGTERM:\n{self.log(name)}") from error

    async def wait_ready(self) -> None:
        """Until the control plane serves and knows its host."""
        async with asyncio.timeout(START_TIMEOUT_S), self.client() as api:
            while True:
                for name, process in self.processes.items():
                    assert process.poll() is None, f"{name} ended:\n{self.log(name)}"
                try:
                    answer = await api.get("/health")
                    if answer.status_code == 200 and (await self.examine()).checks[-1].detail.startswith(
                        "runs"
                    ):
                        return
                except httpx2.TransportError:
                    pass
                await asyncio.sleep(POLL_S)

    def log(self, name: str) -> str:
        return (self.data_dir / f"{name}.log").read_text(errors="replace")[-8000:]

    def client(self, *, key: str | None = None, timeout_s: float = 90) -> httpx2.AsyncClient:
        return httpx2.AsyncClient(
            base_url=self.base_url, headers={"X-API-Key": key or self.key}, timeout=timeout_s, trust_env=False
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
        report = await self.examine()
        try:
            rows: list[dict[str, Any]] = (await api.get("/v1/sandboxes")).json()
        except httpx2.TransportError as error:
            return error
        unsettled = [row for row in rows if row["status"] not in ("running", "paused")]
        return (report.leftovers, unsettled) if report.leftovers or unsettled else None

    async def close(self) -> None:
        for name in list(self.processes):
            await self.stop(name)
        await embedded.stop(self.data_dir)


@asynccontextmanager
async def running_platform(
    data_dir: Path, images_dir: Path, *, private_networks: str = ""
) -> AsyncGenerator[Platform]:
    """A platform that serves; at the end its sandboxes are removed and all of it is stopped."""
    platform = Platform(data_dir, images_dir, private_networks=private_networks)
    await platform.prepare()
    platform.start("agent")
    platform.start("control")
    try:
        await platform.wait_ready()
        yield platform
        async with platform.client() as api:
            for sandbox in (await api.get("/v1/sandboxes")).json():
                await api.delete(f"/v1/sandboxes/{sandbox['id']}")
    finally:
        await platform.close()
