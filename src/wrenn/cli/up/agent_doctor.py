"""The agent's examination of the machine, for one data folder."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from wrenn.agent.doctor import Report
    from wrenn.agent.settings import Settings


async def examine(data_dir: Path) -> Report:
    """Check the machine and list what no live sandbox owns."""
    from wrenn.agent import doctor

    return await doctor.examine(_settings(data_dir))


async def fix_leftovers(data_dir: Path) -> Report:
    """Remove what no live sandbox owns, and examine again."""
    from wrenn.agent import doctor

    await doctor.fix(_settings(data_dir))
    return await doctor.examine(_settings(data_dir))


def _settings(data_dir: Path) -> Settings:
    from wrenn.agent.settings import Settings

    return Settings.from_environment({**os.environ, "WRENN_DATA_DIR": str(data_dir)})
