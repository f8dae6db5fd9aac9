"""A second host beside that of the platform, for what goes from one to another."""

from __future__ import annotations

import asyncio
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path

from tests.installations import remove_installation
from tests.vm.platform import Platform
from wrenn.agent.enrolment import register
from wrenn.agent.settings import Settings
from wrenn.control.fleet import issue_local_token
from wrenn.testing.server import free_port

_STOP_TIMEOUT_S = 30


@asynccontextmanager
async def second_host(platform: Platform, name: str) -> AsyncGenerator[Path]:
    """Run an agent that has registered; yields its data folder, which is removed at the end."""
    folder = Path(tempfile.mkdtemp(prefix="wrenn-bench-host-"))
    environment = {
        **platform.environment(),
        "WRENN_DATA_DIR": str(folder),
        "WRENN_AGENT_LISTEN": f"127.0.0.1:{free_port()}",
        "WRENN_AGENT_METRICS_LISTEN": "off",
    }
    _, token = await issue_local_token(platform.database_url, name=name)
    await register(platform.base_url, token.reveal(), Settings.from_environment(environment))
    with (folder / "agent.log").open("ab") as log:
        agent = subprocess.Popen(
            [sys.executable, "-m", "wrenn.cli.main", "agent"],
            env=environment,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    try:
        yield folder
    finally:
        agent.send_signal(signal.SIGTERM)
        await asyncio.to_thread(agent.wait, _STOP_TIMEOUT_S)
        await remove_installation(folder)
        shutil.rmtree(folder)
