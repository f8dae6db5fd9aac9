"""How many calls to hosts one replica has open, and how they are shared between hosts and teams.

The longer a call lasts, the longer it holds its place, and how long it lasts is up to a host that may be stuck and to guests that may
not answer. So nobody gets all places: a host may have a quarter of as many as are free, a team half as many. The more hosts are
stuck the fewer each has, as its calls end and others begin, and some places stay free.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection
from typing import Final

from wrenn.control.sandboxes.reconcile.work_store import Busy, WorkSlots
from wrenn.control.sandboxes.records import Work
from wrenn.control.sandboxes.state import Desired

CALLS_AT_ONCE: Final = 128
"""Calls for creates, pauses and resumes. The hosts queue what they cannot do at once."""
REMOVALS_AT_ONCE: Final = 128
"""Calls for removals. Each kind has places of its own: starts that take their time hold up no removal, and the reverse."""
MOVES_AT_ONCE: Final = 64
OF_A_TEAM_ON_A_HOST: Final = 16
"""Calls for creates, pauses and resumes of one team to one host: its guests may keep their host waiting, but not for the other teams."""
_MOVES_OF_A_HOST: Final = 4
"""From it or to it: as many as a host carries out at once."""
_BATCH: Final = 8
"""Sandboxes that are leased by one statement: so many may be of one host or team, whatever it has already."""


def find_slots(calls: Collection[Work]) -> WorkSlots:
    """Compute for whom creates, pauses, resumes and removals may be taken beside the calls in progress."""
    removals = [work for work in calls if work.desired is Desired.STOPPED]
    others = [work for work in calls if work.desired is not Desired.STOPPED and not work.is_move]
    free = [left for left in (REMOVALS_AT_ONCE - len(removals), CALLS_AT_ONCE - len(others)) if left > 0]
    return WorkSlots(
        min(map(_batch, free), default=0),
        # How long a removal lasts is up to the host alone.
        removals=_busy(removals, REMOVALS_AT_ONCE, of_a_team=REMOVALS_AT_ONCE),
        others=_busy(others, CALLS_AT_ONCE, of_a_team=OF_A_TEAM_ON_A_HOST),
    )


def find_move_slots(calls: Collection[Work]) -> WorkSlots:
    """Compute for whom moves may be taken beside those in progress, one at a time as each may make a host busy."""
    moves = [work for work in calls if work.is_move]
    busy = _busy(moves, MOVES_AT_ONCE, of_a_team=MOVES_AT_ONCE, of_a_host=_MOVES_OF_A_HOST)
    return WorkSlots(0 if busy is None else 1, moves=busy)


def _batch(free: int) -> int:
    return min(_BATCH, _share(free, 4))


def _share(free: int, parts: int) -> int:
    return max(1, free // parts)


def _busy(
    calls: Collection[Work], limit: int, *, of_a_team: int, of_a_host: int | None = None
) -> Busy | None:
    """Return who has as many calls of one kind in progress as it may; None: all places are taken. `of_a_team`: to one host."""
    free = limit - len(calls)
    if free <= 0:
        return None
    hosts = Counter(host.host_id for work in calls for host in (work.host, work.move_to) if host is not None)
    teams = Counter(work.team_id for work in calls)
    on_hosts = Counter((work.host.host_id, work.team_id) for work in calls)
    host_share = _share(free, 4) if of_a_host is None else of_a_host
    team_share = _share(free, 2)
    return Busy(
        hosts=frozenset(host_id for host_id, count in hosts.items() if count >= host_share),
        teams=frozenset(team_id for team_id, count in teams.items() if count >= team_share),
        teams_on_hosts=frozenset(pair for pair, count in on_hosts.items() if count >= of_a_team),
    )
