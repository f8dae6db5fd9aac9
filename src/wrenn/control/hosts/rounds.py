"""Repeats work for every host so that a slow or failing host does not hold up the others, and remembers what is seen on hosts."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Collection, Sequence
from typing import Final, Generic, TypeVar

from wrenn.base.ids import HostId
from wrenn.control.hosts.types import Host

T = TypeVar("T")

_log = logging.getLogger(__name__)

REMOVALS_A_ROUND: Final = 100
"""Sandboxes or snapshots that one host is asked to remove in one round."""
_DEADLINE_S: Final = 60.0
"""Longest for the work of one round with one host."""
_ROUND_WAIT_S: Final = 5.0
"""Longest that a round waits for its hosts. The work with a slower one goes on, and rounds leave the host out until it has ended."""


class HostRounds:
    """Does some work for every host, in rounds. Errors are logged with the host; they fail neither the round nor the other hosts.

    The work for one host never runs twice at once.
    """

    def __init__(
        self, name: str, *, deadline_s: float = _DEADLINE_S, round_wait_s: float = _ROUND_WAIT_S
    ) -> None:
        self._name = name
        self._deadline_s = deadline_s
        self._round_wait_s = round_wait_s
        self._tasks: dict[HostId, asyncio.Task[None]] = {}
        self._late: set[HostId] = set()

    async def run(self, hosts: Sequence[Host], work: Callable[[Host], Awaitable[None]]) -> None:
        """Do the work for all hosts; returns when it is done, or after `round_wait_s`, while it goes on for the slow hosts.

        It begins after this call. Hosts that an earlier round did not wait for any longer are left out until their work has
        ended. A cancellation ends the wait, not the work: that is for `close`.
        """
        loop = asyncio.get_running_loop()
        end = loop.time() + self._round_wait_s
        host_ids = [host.host_id for host in hosts]
        await self._wait(host_ids, end)
        for host in hosts:
            if host.host_id not in self._tasks:
                self._start(host, work)
        await self._wait(host_ids, end)

    async def close(self) -> None:
        """Cancel all work and wait for its end."""
        tasks = list(self._tasks.values())
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)

    async def _wait(self, host_ids: Sequence[HostId], end: float) -> None:
        """Wait until `end` for the present work with those hosts that are not late; those that it goes on for are late then."""
        tasks = {
            host_id: self._tasks[host_id]
            for host_id in host_ids
            if host_id in self._tasks and host_id not in self._late
        }
        if not tasks:
            return
        await asyncio.wait(tasks.values(), timeout=max(0.0, end - asyncio.get_running_loop().time()))
        self._late.update(host_id for host_id, task in tasks.items() if not task.done())

    def _start(self, host: Host, work: Callable[[Host], Awaitable[None]]) -> None:
        def forget(_: asyncio.Task[None]) -> None:
            del self._tasks[host.host_id]
            self._late.discard(host.host_id)

        task = asyncio.create_task(self._work(host, work), name=f"{self._name} {host.host_id}")
        self._tasks[host.host_id] = task
        task.add_done_callback(forget)

    async def _work(self, host: Host, work: Callable[[Host], Awaitable[None]]) -> None:
        deadline = asyncio.timeout(self._deadline_s)
        try:
            async with deadline:
                await work(host)
        except Exception as error:  # noqa: BLE001 - the loop must go on for the other hosts; the next round tries again
            if deadline.expired():
                cause = f"not finished within {self._deadline_s:.0f} s"
            else:
                # The first line only: database drivers add statements and details.
                cause = f"{type(error).__name__}: {next(iter(str(error).splitlines()), '')}"
            _log.warning(
                "work with a host failed",
                extra={"loop": self._name, "host_id": str(host.host_id), "cause": cause},
            )


class FirstMet(Generic[T]):
    """When each item was first met on each host, for the items that the host's last round met."""

    def __init__(self) -> None:
        self._first: dict[HostId, dict[T, float]] = {}

    def update(self, host_id: HostId, items: Collection[T], *, now: float) -> dict[T, float]:
        """Record which items are met in this round; the others are forgotten. Returns when each was first met.

        The items that `postpone` was called with come last, the most recent one at the end.
        """
        present = set(items)
        met = {item: first for item, first in self._first.get(host_id, {}).items() if item in present}
        for item in items:
            met.setdefault(item, now)
        self._first[host_id] = met
        return dict(met)

    def postpone(self, host_id: HostId, item: T) -> None:
        """Give all other items of the host their turn before this one."""
        met = self._first.get(host_id, {})
        if item in met:
            met[item] = met.pop(item)

    def forget(self, host_id: HostId, item: T) -> None:
        """Forget an item: if it is met again, that is the first time."""
        self._first.get(host_id, {}).pop(item, None)

    def keep_hosts(self, hosts: Collection[Host]) -> None:
        """Forget what was met on other hosts than these."""
        present = {host.host_id for host in hosts}
        self._first = {host_id: met for host_id, met in self._first.items() if host_id in present}
