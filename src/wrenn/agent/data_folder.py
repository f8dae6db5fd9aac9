"""One agent at a time uses a data folder: it holds a lock on a file there."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from wrenn.base.errors import Conflict

_LOCK: Final = "agent.lock"


@contextmanager
def data_folder_held(data_dir: Path) -> Generator[None]:
    """Make the data folder if it is missing, and keep other agents off it. The kernel releases it when this process ends.

    Raises:
        Conflict: another agent runs on it.
    """
    data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    lock = os.open(data_dir / _LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise Conflict(f"Another agent already runs on {data_dir}.") from error
        yield
    finally:
        os.close(lock)


def is_held(data_dir: Path) -> bool:
    """Whether an agent uses the data folder, whoever started it."""
    try:
        lock = os.open(data_dir / _LOCK, os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    else:
        return False
    finally:
        os.close(lock)
