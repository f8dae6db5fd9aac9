"""Repeats work for every host so that a slow or failing host does not hold up the others, and remembers what is seen on hosts."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Collection, Sequence
from dataclasses import dataclass
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
_PLACES: Final = 16
"""Hosts that are worked on at once while they answer quickly. A thousand at once, as after a start, would keep the event loop busy for
so long that requests and heartbeats fail."""
_SLOW_PLACES: Final = 32
"""The same for hosts that were slow the last time, which mostly cost waiting."""
_PLACE_S: Final = 1.0
"""Longest that the work with one host holds a place: it goes on without, and the next host begins."""


@dataclass(slots=True)
class _Visit:
    """Work for one host, which waits for a place or has begun.

    Attributes:
        host, work: as in the newest round that it has not begun before.
        is_late: a round did not wait for it any longer after it had begun.
    """

    host: Host
    work: Callable[[Host], Awaitable[None]]
    task: asyncio.Task[None] | None = None
    has_begun: bool = False
    is_late: bool = False


class HostRounds:
    """Does some work for every host, in rounds. Errors are logged with the host; they fail neither the round nor the other hosts.

    The work for one host never runs twice at once. Hosts are begun in the order of the rounds, each with a place, which it
    holds until its work has ended, for at most `place_s`. Those that took longer than that the last time have places of
    their own. So of N hosts that nobody knows to be dead yet, each delays the others by at most `place_s / places`, and one that
    is known to be dead delays no living one.
    """

    def __init__(
        self,
        name: str,
        *,
        deadline_s: float = _DEADLINE_S,
        round_wait_s: float = _ROUND_WAIT_S,
        places: int = _PLACES,
        slow_places: int = _SLOW_PLACES,
        place_s: float = _PLACE_S,
    ) -> None:
        self._name = name
        self._deadline_s = deadline_s
        self._round_wait_s = round_wait_s
        self._place_s = place_s
        self._places = asyncio.Semaphore(places)
        self._slow_places = asyncio.Semaphore(slow_places)
        self._visits: dict[HostId, _Visit] = {}
        self._slow: set[HostId] = set()

    async def run(self, hosts: Sequence[Host], work: Callable[[Host], Awaitable[None]]) -> None:
        """Do the work for all hosts; returns when it is done, or after `round_wait_s`, while it goes on for the slow hosts.

        It begins after this call. Hosts that an earlier round did not wait for any longer are left out until their work has
        ended; those that still wait for a place keep theirs in the queue. A cancellation ends the wait, not the work: that is
        for `close`.
        """
        loop = asyncio.get_running_loop()
        end = loop.time() + self._round_wait_s
        await self._wait([visit for visit in self._of(hosts) if visit.has_begun], end)
        for host in hosts:
            visit = self._visits.get(host.host_id)
            if visit is None:
                self._start(host, work)
            elif not visit.has_begun:
                visit.host, visit.work = host, work
        await self._wait(self._of(hosts), end)

    def keep_hosts(self, hosts: Collection[Host]) -> None:
        """Forget which other hosts than these were slow."""
        self._slow &= {host.host_id for host in hosts}

    async def close(self) -> None:
        """Cancel all work and wait for its end."""
        tasks = [visit.task for visit in self._visits.values() if visit.task is not None]
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)

    def _of(self, hosts: Sequence[Host]) -> list[_Visit]:
        found = (self._visits.get(host.host_id) for host in hosts)
        return [visit for visit in found if visit is not None]

    async def _wait(self, visits: Sequence[_Visit], end: float) -> None:
        """Wait until `end` for those visits that are not late; those that have begun and go on are late then."""
        waited = [visit for visit in visits if not visit.is_late]
        tasks = [visit.task for visit in waited if visit.task is not None]
        if not tasks:
            return
        await asyncio.wait(tasks, timeout=max(0.0, end - asyncio.get_running_loop().time()))
        for visit in waited:
            visit.is_late = visit.has_begun

    def _start(self, host: Host, work: Callable[[Host], Awaitable[None]]) -> None:
        visit = self._visits[host.host_id] = _Visit(host, work)
        visit.task = asyncio.create_task(self._in_turn(visit), name=f"{self._name} {host.host_id}")
        visit.task.add_done_callback(lambda _: self._visits.pop(host.host_id, None))

    async def _in_turn(self, visit: _Visit) -> None:
        """Wait for a place, and do the work; the place is given back when the work has ended, or after `place_s`."""
        host_id = visit.host.host_id
        places = self._slow_places if host_id in self._slow else self._places
        await places.acquire()
        loop = asyncio.get_running_loop()
        holds_place = True

        def give_back() -> None:
            nonlocal holds_place
            if holds_place:
                holds_place = False
                places.release()

        timer = loop.call_later(self._place_s, give_back)
        visit.has_begun = True
        try:
            await self._work(visit.host, visit.work)
        finally:
            timer.cancel()
            if holds_place:
                self._slow.discard(host_id)
            else:
                self._slow.add(host_id)
            give_back()

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
