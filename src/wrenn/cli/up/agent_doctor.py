"""Runs the agent's checks of the machine and its disk for one data folder."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from wrenn.cli.settings import read_env
from wrenn.cli.up.options import Address
from wrenn.cli.up.services import agent_address

if TYPE_CHECKING:
    from wrenn.agent.doctor import Report
    from wrenn.agent.settings import Settings
    from wrenn.agent.storage_report import StorageReport


async def examine(data_dir: Path) -> Report:
    """Check the machine and list resources that no live sandbox owns."""
    from wrenn.agent import doctor

    return await doctor.examine(_settings(data_dir))


async def fix_leftovers(data_dir: Path) -> Report:
    """Remove resources that no live sandbox owns, and check again."""
    from wrenn.agent import doctor

    return await doctor.fix(_settings(data_dir))


def disk_use(data_dir: Path) -> StorageReport:
    """Report the disk usage. Changes nothing, and needs no running platform."""
    from wrenn.agent.storage_report import measure_storage

    return measure_storage(_settings(data_dir))


def _settings(data_dir: Path) -> Settings:
    from wrenn.agent.settings import Settings

    place = {"WRENN_DATA_DIR": str(data_dir)}
    url = urlsplit(read_env(data_dir / "env").get("WRENN_BASE_URL", ""))
    if url.hostname and url.port:
        place["WRENN_AGENT_LISTEN"] = str(agent_address(Address(url.hostname, url.port)))
    return Settings.from_environment({**os.environ, **place})
