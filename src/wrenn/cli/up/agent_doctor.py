"""Runs the agent's checks of the machine and its disk for one data folder."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

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


def agent_runs(data_dir: Path) -> bool:
    """Whether an agent uses this data folder, whoever started it."""
    from wrenn.agent.data_folder import is_held

    return is_held(data_dir)


def disk_use(data_dir: Path) -> StorageReport:
    """Report the disk usage. Changes nothing, and needs no running platform."""
    from wrenn.agent.storage_report import measure_storage

    return measure_storage(_settings(data_dir))


def _settings(data_dir: Path) -> Settings:
    from wrenn.agent.settings import Settings

    return Settings.from_environment({**os.environ, "WRENN_DATA_DIR": str(data_dir)})
