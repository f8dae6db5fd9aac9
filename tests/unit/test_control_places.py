"""Calls to hosts that hang hold up neither calls of another kind nor those for other hosts and teams (`sandboxes/reconcile/places.py`)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from wrenn.base.ids import HostId, SandboxId, TeamId
from wrenn.control.hosts import HostEndpoint
from wrenn.control.sandboxes.reconcile.places import (
    CALLS_AT_ONCE,
    OF_A_TEAM_ON_A_HOST,
    REMOVALS_AT_ONCE,
    find_move_slots,
    find_slots,
)
from wrenn.control.sandboxes.reconcile.work_store import Busy, WorkSlots
from wrenn.control.sandboxes.records import Origin, Spec, Work
from wrenn.control.sandboxes.state import Desired, State


def endpoint() -> HostEndpoint:
    return HostEndpoint(HostId.new(), "127.0.0.1:1", 0)


def call(
    host: HostEndpoint | None = None, team: TeamId | None = None, desired: Desired = Desired.PAUSED
) -> Work:
    return Work(
        sandbox_id=SandboxId.new(),
        team_id=team or TeamId.new(),
        host=host or endpoint(),
        status=State.RUNNING,
        desired=desired,
        spec=Spec("minimal", 1, 128, {}),
        origin=Origin("minimal", None, None),
        network_revision=0,
        idle_ms=0,
        attempts=1,
        version=1,
        generation=1,
        age_s=0.0,
    )


def removal(host: HostEndpoint | None = None) -> Work:
    return call(host, desired=Desired.STOPPED)


def move(host: HostEndpoint, target: HostEndpoint) -> Work:
    return replace(call(host), status=State.PAUSED, move_to=target)


def may_begin(work: Work, busy: Busy | None) -> bool:
    return (
        busy is not None
        and work.host.host_id not in busy.hosts
        and work.team_id not in busy.teams
        and (work.host.host_id, work.team_id) not in busy.teams_on_hosts
    )


def begun(wanted: list[Work], under_way: list[Work] | None = None) -> list[Work]:
    """The calls under way when as many of these as may have begun, in this order, and none has ended."""
    calls = list(under_way or [])
    for work in wanted:
        slots = find_slots(calls)
        if may_begin(work, slots.removals if work.desired is Desired.STOPPED else slots.others):
            calls.append(work)
    return calls


@pytest.mark.parametrize(
    ("removals", "others", "limit", "has_removals", "has_others"),
    [
        (0, 0, 8, True, True),
        (0, CALLS_AT_ONCE - 1, 1, True, True),
        (0, CALLS_AT_ONCE, 8, True, False),
        (REMOVALS_AT_ONCE, 0, 8, False, True),
        (REMOVALS_AT_ONCE, CALLS_AT_ONCE, 0, False, False),
    ],
)
def test_calls_of_one_kind_that_hang_leave_the_places_of_the_other(
    removals: int, others: int, limit: int, has_removals: bool, has_others: bool
) -> None:
    slots = find_slots([removal() for _ in range(removals)] + [call() for _ in range(others)])
    assert slots.limit == limit
    assert (slots.removals is not None, slots.others is not None) == (has_removals, has_others)
    assert slots.moves is None


@pytest.mark.parametrize("make", [call, removal])
def test_hosts_that_are_stuck_never_get_all_places(make: Callable[[HostEndpoint], Work]) -> None:
    stuck = [endpoint() for _ in range(20)]
    calls = begun([make(host) for host in stuck[:10] for _ in range(30)])
    of_first = sum(work.host is stuck[0] for work in calls)
    assert of_first == 25, "a quarter of as many as are free then"
    assert len(calls) < CALLS_AT_ONCE - 8
    # They end by a time-out, and others of these hosts are due at once.
    for _ in range(CALLS_AT_ONCE):
        calls = begun([make(host) for host in stuck], calls[1:])
    assert len(calls) < CALLS_AT_ONCE - 8
    assert {work.host.host_id for work in calls} == {host.host_id for host in stuck}
    slots = find_slots(calls)
    assert may_begin(call(), slots.others)
    assert may_begin(removal(), slots.removals)


def test_a_team_whose_guests_do_not_answer_leaves_places_for_others_on_the_same_host_and_elsewhere() -> None:
    host, greedy = endpoint(), TeamId.new()
    calls = begun([call(host, greedy) for _ in range(100)])
    assert len(calls) == OF_A_TEAM_ON_A_HOST
    assert may_begin(call(host), find_slots(calls).others)
    calls = begun([call(None, greedy) for _ in range(1000)])
    assert len(calls) == 43, "half as many as are free then"
    assert may_begin(call(), find_slots(calls).others)


def test_a_host_that_does_not_end_its_moves_holds_up_only_moves_of_its_own() -> None:
    source, target, other = endpoint(), endpoint(), endpoint()
    slots = find_move_slots([move(source, target) for _ in range(4)])
    assert slots.limit == 1
    assert slots.moves is not None
    assert slots.moves.hosts == {source.host_id, target.host_id}
    assert may_begin(move(other, endpoint()), slots.moves)
    assert find_move_slots([move(endpoint(), endpoint()) for _ in range(64)]) == WorkSlots(0)
