"""Hashes passwords in low-priority threads: a few at a time, with a bounded queue.

A hash takes a tenth of a second of a core and 19 MiB. The threads run at a lower priority than the loop that serves requests,
and whoever comes with a password takes a turn for all of its work, so that many logins slow each other down and nobody else.
Argon2id with the parameters of OWASP; hashes of bcrypt, as other installations have them, are accepted, and replaced when
their password is shown.
"""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import AsyncGenerator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from typing import Final, TypeVar

import bcrypt
from argon2 import PasswordHasher
from argon2.exceptions import InvalidHashError, VerificationError

from wrenn.base.errors import RateLimited
from wrenn.base.ids import random_hex
from wrenn.base.secrets import Secret

T = TypeVar("T")

PASSWORD_MIN_B: Final = 8
PASSWORD_MAX_B: Final = 1024
_HASHER: Final = PasswordHasher(time_cost=2, memory_cost=19 * 1024, parallelism=1)
_THREADS: Final = max(1, (os.cpu_count() or 1) - 1)
_TURNS: Final = _THREADS + 1
"""One reads and writes its rows while the others hash."""
_WAITING_LIMIT: Final = 64
"""Who has a turn or waits for one, in one process: some seconds of work. Whoever comes then is told to come again."""
_NICENESS: Final = 15
_BCRYPT: Final = ("$2a$", "$2b$", "$2y$")
_BCRYPT_MAX_B: Final = 72
"""It never looked further."""


class Passwords:
    """Hashes and verifies passwords in low-priority threads, a bounded number at a time."""

    def __init__(self) -> None:
        self._threads = ThreadPoolExecutor(_THREADS, "password", initializer=_give_way)
        self._turns = asyncio.Semaphore(_TURNS)
        self._waiting = 0
        # Compared where there is no account, so that the answer takes as long.
        self._nobodys = _HASHER.hash(random_hex(16))

    def close(self) -> None:
        """Wait until the hashes in progress are done."""
        self._threads.shutdown(wait=True, cancel_futures=True)

    @asynccontextmanager
    async def turn(self) -> AsyncGenerator[None]:
        """Wait for one of a bounded number of turns, and keep it while the body runs. Take it for all work of one request.

        Raises:
            RateLimited: too many at once.
        """
        if self._waiting >= _WAITING_LIMIT:
            raise RateLimited("Too many people log in at this moment. Try again.", retry_after_s=2)
        self._waiting += 1
        try:
            async with self._turns:
                yield
        finally:
            self._waiting -= 1

    async def hash(self, password: Secret) -> str:
        """Return the hash to store."""
        return await self._run(lambda: _HASHER.hash(password.reveal()))

    async def verify(self, password: Secret, stored: str | None) -> bool:
        """Whether the password matches the hash. Without a hash it takes as long and is False."""
        return await self._run(lambda: _matches(password, stored or self._nobodys) and stored is not None)

    @staticmethod
    def is_outdated(stored: str) -> bool:
        """Whether the hash was made with other parameters than `hash` uses now."""
        return stored.startswith(_BCRYPT) or _HASHER.check_needs_rehash(stored)

    async def _run(self, work: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._threads, work)


def _give_way() -> None:
    # On Linux this is the thread's own.
    os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), _NICENESS)


def _matches(password: Secret, stored: str) -> bool:
    try:
        if stored.startswith(_BCRYPT):
            return bcrypt.checkpw(password.reveal().encode()[:_BCRYPT_MAX_B], stored.encode())
        return _HASHER.verify(stored, password.reveal())
    except (VerificationError, InvalidHashError, ValueError):
        return False
