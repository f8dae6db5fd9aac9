"""Takes disk space for the written layers of running machines, ahead of what they write."""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from wrenn.base.errors import StorageFull
from wrenn.base.loops import Loop
from wrenn.base.units import MIB
from wrenn.linux.device_mapper import DeviceMapperError
from wrenn.linux.disk_space import free_b
from wrenn.linux.threads import DISK_SPACE, run_to_end
from wrenn.vm.firecracker import cow_space

_log = logging.getLogger(__name__)

_LEAST_AHEAD_B: Final = cow_space.FIRST_B
_MOST_AHEAD_B: Final = 256 * MIB
_STEP_B: Final = MIB
"""Less is not taken."""
_GROWTH_FACTOR: Final = 4
"""Space ahead is so many times what a layer grew by since it was looked at last."""
_SHORTEST_S: Final = 0.025
_WITHOUT_SPACE_S: Final = 0.25
"""A layer that needs space is looked at so often while there is none."""
_LONGEST_S: Final = 1.0
"""An idle layer is looked at so often. One that begins to write waits so long at most, when it has used up its space."""


@dataclass(slots=True)
class _Watched:
    """What was found when a layer was looked at last.

    Attributes:
        used_b: how much of its file was used; -1: it was not looked at.
        has_enough: it had enough space ahead.
        due: when to look again, of the monotonic clock.
        interval_s: time from the last look to the next one.
    """

    used_b: int = -1
    has_enough: bool = False
    due: float = 0.0
    interval_s: float = _SHORTEST_S


def ahead_b(grown_b: int) -> int:
    """Return how much space a layer should have ahead that grew by so much since it was looked at last."""
    return min(_MOST_AHEAD_B, max(_LEAST_AHEAD_B, _GROWTH_FACTOR * grown_b))


def granted_b(wanted_b: int, *, free_b: int, reserve_b: int) -> int:
    """Return how much of the wanted space may be taken so that the host keeps its reserve; 0 if it is hardly any."""
    possible_b = free_b - reserve_b
    if possible_b >= wanted_b:
        return wanted_b
    return max(0, possible_b // _STEP_B * _STEP_B)


class SpaceAllocator:
    """Looks at the layers of the devices whose names begin with `prefix`, and takes space below `folder`, but not of the reserve.

    Attributes:
        waiting: the layers' devices with writes that wait for space.
    """

    def __init__(self, *, prefix: str, folder: Path, reserve_b: int) -> None:
        self._prefix = prefix
        self._folder = folder
        self._reserve_b = reserve_b
        self._watched: dict[str, _Watched] = {}
        self._listed_at = 0.0
        self._loop = Loop("take disk space for sandboxes")
        self.waiting: frozenset[str] = frozenset()

    async def run(self) -> None:
        """Look again and again, until cancelled."""
        await self._loop.run(lambda: run_to_end(self.look, pool=DISK_SPACE), every_s=_LONGEST_S)

    def look(self) -> float:
        """Look at the layers that are due; returns the seconds until the next one is. Blocking."""
        now = time.monotonic()
        if now >= self._listed_at + _LONGEST_S:
            # The kernel knows which there are, whoever attached, switched or merged them.
            layers = cow_space.stores(self._prefix)
            self._watched = {layer: self._watched.get(layer) or _Watched() for layer in layers}
            self._listed_at = now
        waiting = self.waiting & self._watched.keys()
        for layer, watched in self._watched.items():
            if watched.due > now:
                continue
            try:
                is_waiting = self._look_at(layer, watched)
            except (DeviceMapperError, OSError) as error:
                # Its machine has ended, or the kernel gave the layer up, which its driver reports.
                _log.debug("no space is taken for a layer", extra={"layer": layer, "reason": str(error)})
                is_waiting, watched.interval_s = False, _LONGEST_S
            waiting = waiting | {layer} if is_waiting else waiting - {layer}
            watched.due = now + watched.interval_s
        self.waiting = waiting
        return max(0.0, min((each.due for each in self._watched.values()), default=now + _LONGEST_S) - now)

    def _look_at(self, layer: str, watched: _Watched) -> bool:
        """Take space if the layer has little ahead; returns whether writes wait for more."""
        used_b = cow_space.used_b(layer)
        grown_b = used_b - watched.used_b if watched.used_b >= 0 else 0
        if watched.has_enough and watched.used_b == used_b:
            watched.interval_s = min(_LONGEST_S, 2 * watched.interval_s)
            return False
        watched.used_b, watched.interval_s = used_b, _SHORTEST_S
        space, ahead = cow_space.read(layer), ahead_b(grown_b)
        watched.has_enough = not space.last or space.open_b - used_b >= ahead // 2
        if watched.has_enough:
            return False
        wanted_b = min(used_b + ahead, space.end_b) - space.open_b
        granted = granted_b(wanted_b, free_b=free_b(self._folder), reserve_b=self._reserve_b)
        try:
            cow_space.take(layer, space.open_b + granted)
        except StorageFull:
            granted = 0
        if not granted:
            watched.interval_s = _WITHOUT_SPACE_S
        return not granted and used_b >= space.open_b
