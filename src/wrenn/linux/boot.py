"""Tells one boot of this machine from another."""

from __future__ import annotations

from pathlib import Path
from typing import Final

_BOOT_ID: Final = Path("/proc/sys/kernel/random/boot_id")


def boot_id() -> str:
    """Return the id that the kernel chose when this machine was booted; no two boots have the same."""
    return _BOOT_ID.read_text().strip()
