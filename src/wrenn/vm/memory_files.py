"""Names of the files in a snapshot's folder that the QEMU driver writes."""

from __future__ import annotations

from pathlib import Path
from typing import Final

MEMORY: Final = "memory"
STATE: Final = "state"
SAVED_FILES: Final = (MEMORY, STATE)


def memory_path(directory: Path) -> Path:
    """Return the path of the memory diff."""
    return directory / MEMORY


def state_path(directory: Path) -> Path:
    """Return the path of the device state."""
    return directory / STATE
