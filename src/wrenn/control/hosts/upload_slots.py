"""Limits the uploads that one replica has its hosts carry out in the background."""

from __future__ import annotations

from collections import Counter
from typing import Final, Generic, TypeVar

from wrenn.base.clock import Clock
from wrenn.base.ids import HostId, TeamId

K = TypeVar("K")

_AT_ONCE: Final = 64
_OF_A_HOST: Final = 2
"""A host carries out four uploads at once: moves and creates need some too. One whose uploads never end holds up only its own."""
_AFTER_FAILURE_S: Final = 60.0


class UploadSlots(Generic[K]):
    """The uploads under way, each with the host that carries it out and the team that it is for, and those that failed a moment ago.

    A team has at most half as many as are free then, so that its large uploads leave slots for the other teams.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._under_way: dict[K, tuple[HostId, TeamId | None]] = {}
        self._failed_at: dict[K, float] = {}

    @property
    def free(self) -> int:
        """How many further uploads may begin."""
        return max(0, _AT_ONCE - len(self._under_way))

    def busy_hosts(self) -> frozenset[HostId]:
        """Return the hosts that carry out as many uploads as one may."""
        counts = Counter(host_id for host_id, _ in self._under_way.values())
        return frozenset(host_id for host_id, count in counts.items() if count >= _OF_A_HOST)

    def busy_teams(self) -> frozenset[TeamId]:
        """Return the teams for whom as many uploads are under way as may be."""
        counts = Counter(team_id for _, team_id in self._under_way.values() if team_id is not None)
        most = max(1, self.free // 2)
        return frozenset(team_id for team_id, count in counts.items() if count >= most)

    def not_now(self) -> frozenset[K]:
        """Return what is being uploaded, and what failed less than a minute ago."""
        now = self._clock.monotonic()
        self._failed_at = {key: at for key, at in self._failed_at.items() if now - at < _AFTER_FAILURE_S}
        return frozenset(self._under_way) | frozenset(self._failed_at)

    def take(self, key: K, host_id: HostId, team_id: TeamId | None) -> bool:
        """Take a slot for an upload by this host for this team; False: none is free for it. Give it back with `release`.

        Without a team it is for the platform.
        """
        if not self.free or key in self._under_way:
            return False
        if host_id in self.busy_hosts() or team_id in self.busy_teams():
            return False
        self._under_way[key] = (host_id, team_id)
        return True

    def release(self, key: K) -> None:
        """Give a slot back."""
        self._under_way.pop(key, None)

    def note_failure(self, key: K) -> None:
        """Leave this upload out for a minute."""
        self._failed_at[key] = self._clock.monotonic()
