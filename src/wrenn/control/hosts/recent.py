"""One read of all hosts for several loops."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Final

from wrenn.control.db import Database
from wrenn.control.hosts import store
from wrenn.control.hosts.types import Host

_SHARE: Final = 2 / 3
"""Of the loops' interval, for which a read serves: three loops that begin at any time within it read little more than once."""


class RecentHosts:
    """Reads all hosts for loops that run every `interval_s`, and gives each the last read if it is younger than two thirds of that."""

    def __init__(self, database: Database, *, interval_s: float) -> None:
        self._database = database
        self._life_s = interval_s * _SHARE
        self._hosts: Sequence[Host] = ()
        self._read_at = self._usable_from = float("-inf")
        self._one_read = asyncio.Lock()

    async def read(self) -> Sequence[Host]:
        """Return every host that has registered and is not deleted, as in a read of this moment or of shortly before.

        Raises:
            DatabaseUnavailable.
        """
        async with self._one_read:
            now = asyncio.get_running_loop().time()
            if self._read_at < max(now - self._life_s, self._usable_from):
                self._hosts = await store.all_hosts(self._database)
                self._read_at = now
            return self._hosts

    def forget(self) -> None:
        """Have the next caller read again, as a host's row was changed in a way that the loops must see at once."""
        self._usable_from = asyncio.get_running_loop().time()
