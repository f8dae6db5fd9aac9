"""Names of the files in a snapshot's folder: what QEMU's driver saves of a VM."""

from __future__ import annotations

from pathlib import Path
from typing import Final

MEMORY: Final = "memory"
STATE: Final = "state"
SAVED_FILES: Final = (MEMORY, STATE)


def memory_path(directory: Path) -> Path:
    """The memory diff."""
    return directory / MEMORY


def state_path(directory: Path) -> Path:
    """The device state."""
    return directory / STATE
