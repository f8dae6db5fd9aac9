"""Which hosts a loop visits."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime

from tests.unit.test_control_host_rounds import host
from wrenn.base.ids import HostId
from wrenn.control.hosts import Host, Visits

PLAIN = replace(host("host"), inventory="ab")


class SetClock:
    def __init__(self) -> None:
        self.seconds = 1000.0

    def now(self) -> datetime:
        return datetime.fromtimestamp(self.seconds, UTC)

    def monotonic(self) -> float:
        return self.seconds


def visits_of(clock: SetClock) -> Visits:
    return Visits(clock, lambda host: host.inventory, longest_s=100)


def test_a_host_is_due_until_a_visit_found_nothing_and_again_when_it_changes() -> None:
    visits = visits_of(SetClock())
    assert visits.due([PLAIN]) == [PLAIN]
    version = visits.version_of(PLAIN)
    assert visits.due([PLAIN]) == [PLAIN], "the visit has not ended"
    visits.settle(PLAIN, version)
    assert visits.due([PLAIN]) == []
    changed = replace(PLAIN, inventory="cd")
    assert visits.due([changed]) == [changed]
    visits.unsettle(PLAIN.host_id)
    assert visits.due([PLAIN]) == [PLAIN]


def test_a_change_during_a_visit_makes_another_one_due() -> None:
    visits = visits_of(SetClock())
    version = visits.version_of(PLAIN)
    changed = replace(PLAIN, inventory="cd")
    visits.settle(PLAIN, version)
    assert visits.due([changed]) == [changed]


def test_every_host_is_visited_now_and_then_and_not_all_at_once() -> None:
    clock = SetClock()
    visits = visits_of(clock)
    hosts = [replace(PLAIN, host_id=HostId.new()) for _ in range(200)]
    for each in hosts:
        visits.settle(each, each.inventory)
    for _ in range(4):
        visits.due(hosts)
    clock.seconds += 79
    assert visits.due(hosts) == []
    clock.seconds += 11
    assert 50 < len(visits.due(hosts)) < 150
    clock.seconds += 11
    assert visits.due(hosts) == hosts


def test_a_host_that_sends_no_digest_is_always_due_and_one_that_is_gone_is_forgotten() -> None:
    visits = visits_of(SetClock())
    silent: Host = replace(PLAIN, inventory="")
    visits.settle(silent, "")
    assert visits.due([silent]) == [silent]
    visits.settle(PLAIN, "ab")
    assert visits.due([]) == []
    assert visits.due([PLAIN]) == [PLAIN]


def test_the_first_visits_after_a_start_are_spread_over_rounds() -> None:
    visits = visits_of(SetClock())
    hosts = [replace(PLAIN, host_id=HostId.new()) for _ in range(150)]
    assert visits.due(hosts) == hosts[:64]
    for each in hosts[:10]:
        visits.settle(each, each.inventory)
    assert visits.due(hosts) == hosts[10:128], "those whose visit goes on do not hold up the next ones"
    assert visits.due(hosts) == hosts[10:]
    new = replace(PLAIN, host_id=HostId.new())
    assert visits.due([*hosts[:10], new]) == [new]
