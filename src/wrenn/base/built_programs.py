"""Finds the project's programs in Rust: in the installed package, or in a checkout in which cargo has built them."""

from __future__ import annotations

import platform
from pathlib import Path
from typing import Final

_PACKAGE: Final = Path(__file__).parent.parent


def find_built_program(name: str) -> Path | None:
    """Return the path of the program for this machine; None: it has not been built."""
    target = _PACKAGE.parent.parent / "rust/target"
    machine = platform.machine()
    candidates = (
        _PACKAGE / "_bin" / name,
        target / f"{machine}-unknown-linux-gnu" / "release" / name,
        target / f"{machine}-unknown-linux-musl" / "release" / name,
    )
    return next((path for path in candidates if path.is_file()), None)
