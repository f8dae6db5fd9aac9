"""The paths that `wrenn up` uses in the data folder, and the lock on it."""

from __future__ import annotations

import asyncio
import fcntl
import os
import time
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final

from wrenn.base.errors import DeadlineExceeded, Forbidden
from wrenn.base.on_failure import on_failure

LOCK_TIMEOUT_S: Final = 1800.0
"""Longest time that one `wrenn up` waits for another, which may be building the images."""


@dataclass(frozen=True, slots=True)
class Layout:
    """Paths in a data folder."""

    data_dir: Path

    @property
    def env(self) -> Path:
        """File with the URL and API key of the first user, mode 600."""
        return self.data_dir / "env"

    @property
    def database_url(self) -> Path:
        """File with the URL of the operator's own database, mode 600; missing if the embedded one is used."""
        return self.data_dir / "database-url"

    @property
    def run(self) -> Path:
        """Folder of pid files and logs."""
        return self.data_dir / "run"

    def log(self, program: str) -> Path:
        """Return the path of a program's log."""
        return self.run / f"{program}.log"

    def pid_file(self, program: str) -> Path:
        """Return the path of a program's pid file."""
        return self.run / f"{program}.pid"

    @property
    def marker(self) -> Path:
        """File that says that the whole data folder is ours, so that it may be removed as a whole."""
        return self.data_dir / ".wrenn"

    def make(self) -> None:
        """Create missing folders. A data folder that has nothing of others is marked as ours.

        Raises:
            Forbidden: this user lacks the permission.
        """
        try:
            self.data_dir.mkdir(mode=0o755, parents=True, exist_ok=True)
            if self._is_ours():
                self.marker.touch(mode=0o644)
            self.run.mkdir(mode=0o755, exist_ok=True)
        except PermissionError as error:
            raise Forbidden(
                f"{self.data_dir} cannot be made: run as root, or choose another --data-dir."
            ) from error

    def _is_ours(self) -> bool:
        from wrenn.storage.images.images import INITRAMFS, KERNELS, TEMPLATES

        # The lock: a release that made no marker used the folder. Images may have been built before anything else.
        if (self.run / "up.lock").exists():
            return True
        return {each.name for each in self.data_dir.iterdir()} <= {INITRAMFS, KERNELS, TEMPLATES}

    @asynccontextmanager
    async def locked(self, waiting: Callable[[str], object]) -> AsyncGenerator[None]:
        """Lock the data folder against other `wrenn up` and `wrenn down`. The kernel releases the lock of a process that dies."""
        try:
            descriptor = os.open(self.run / "up.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except PermissionError as error:
            raise Forbidden(f"{self.data_dir} belongs to another user: run the command as root.") from error
        try:
            deadline = time.monotonic() + LOCK_TIMEOUT_S
            said = False
            while not _try_lock(descriptor):
                if not said:
                    waiting(
                        "another `wrenn up` or `wrenn down` is at work on this data folder; waiting for it"
                    )
                    said = True
                if time.monotonic() > deadline:
                    raise DeadlineExceeded(
                        f"Another `wrenn up` has held {self.run}/up.lock for {LOCK_TIMEOUT_S:.0f} s."
                    )
                await asyncio.sleep(0.2)
            yield
        finally:
            os.close(descriptor)


def _try_lock(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def write_private(path: Path, text: str) -> None:
    """Write a file atomically; only its owner can read it, from the moment it is created."""
    scratch = path.with_name(f".{path.name}.{os.getpid()}")
    descriptor = os.open(scratch, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, 0o600)
    with on_failure(partial(scratch.unlink, missing_ok=True)):
        with os.fdopen(descriptor, "w") as file:
            os.fchmod(file.fileno(), 0o600)
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        scratch.replace(path)
