"""The choice of a host, and what is said when none has room."""

from __future__ import annotations

from dataclasses import replace

import pytest

from wrenn.base.errors import NoCapacity, NotFound, Unavailable
from wrenn.base.ids import HostId, TeamId
from wrenn.base.units import GIB, MIB
from wrenn.control.hosts import Host, HostStatus
from wrenn.control.placement import Load, Overcommit, Wanted, choose_host

WANTED = Wanted("minimal", memory_mb=512, disk_mb=5120)
ONCE = Overcommit(memory=1.0, disk=1.0)


def host(
    *,
    memory_gib: int = 4,
    disk_gib: int = 100,
    share_mb: int = 5120,
    slots: int = 10,
    status: HostStatus = HostStatus.ONLINE,
    templates: frozenset[str] = frozenset({"minimal"}),
    silent_s: float = 0,
    team_id: TeamId | None = None,
) -> Host:
    return Host(
        host_id=HostId.new(),
        name="h",
        address="https://h",
        status=status,
        memory_b=memory_gib * GIB,
        disk_b=disk_gib * GIB,
        disk_available_b=disk_gib * GIB,
        sandbox_disk_b=share_mb * MIB,
        sandbox_limit=slots,
        templates=templates,
        silent_s=silent_s,
        is_reachable=status is HostStatus.ONLINE,
        team_id=team_id,
    )


def test_the_host_with_the_most_capacity_is_chosen():
    small, large = host(memory_gib=2), host(memory_gib=8)
    assert choose_host([small, large], {}, WANTED, ONCE) is large
    busy = {large.host_id: Load(sandboxes=9, memory_mb=4608, disk_mb=0)}
    assert choose_host([small, large], busy, WANTED, ONCE) is small


def test_a_host_takes_exactly_what_it_has_and_no_more():
    one = host(memory_gib=1)
    choose_host([one], {one.host_id: Load(1, 512, 5120)}, WANTED, ONCE)
    with pytest.raises(NoCapacity, match="memory full"):
        choose_host([one], {one.host_id: Load(1, 513, 5120)}, WANTED, ONCE)


@pytest.mark.parametrize(
    ("load", "full"),
    [
        (Load(10, 0, 0), "sandbox slots"),
        (Load(1, 4096, 0), "memory"),
        (Load(1, 0, 100 * 1024), "disk"),
        (Load(10, 4096, 100 * 1024), "disk, memory, sandbox slots"),
    ],
)
def test_what_is_full_is_named(load: Load, full: str):
    one = host()
    with pytest.raises(NoCapacity) as refusal:
        choose_host([one], {one.host_id: load}, WANTED, ONCE)
    assert f": {full} full." in refusal.value.message


def test_memory_and_disk_may_be_promised_more_than_once():
    one = host(memory_gib=1, disk_gib=10)
    load = {one.host_id: Load(4, 2048, 20480)}
    assert choose_host([one], load, WANTED, Overcommit(memory=4, disk=4)) is one


def test_silent_hosts_and_hosts_without_the_template_are_skipped():
    silent = host(status=HostStatus.UNREACHABLE, silent_s=60)
    other, good = host(templates=frozenset()), host()
    assert choose_host([silent, other, good], {}, WANTED, ONCE) is good
    with pytest.raises(NoCapacity, match="No host can be reached"):
        choose_host([silent, host(status=HostStatus.PENDING)], {}, WANTED, ONCE)
    with pytest.raises(NotFound, match="minimal"):
        choose_host([other], {}, WANTED, ONCE)


def test_a_host_that_may_be_restarting_is_taken_when_no_other_answers():
    restarting = host(status=HostStatus.UNREACHABLE, silent_s=3, memory_gib=64)
    assert choose_host([restarting], {}, WANTED, ONCE) is restarting
    small = host(memory_gib=1)
    assert choose_host([restarting, small], {}, WANTED, ONCE) is small


def test_what_lies_on_one_host_goes_there_or_nowhere():
    its, larger = host(memory_gib=1), host(memory_gib=64)
    pinned = Wanted("own", memory_mb=512, disk_mb=5120, host_id=its.host_id)
    assert choose_host([its, larger], {}, pinned, ONCE) is its
    with pytest.raises(NoCapacity, match=r"only one that has its files.*memory full"):
        choose_host([its, larger], {its.host_id: Load(2, 1024, 0)}, pinned, ONCE)
    with pytest.raises(Unavailable):
        choose_host([larger], {}, pinned, ONCE)


def test_a_batch_needs_capacity_for_all():
    one = host(memory_gib=2)
    four = Wanted("minimal", memory_mb=512, disk_mb=5120, host_id=one.host_id, count=4)
    assert choose_host([one], {}, four, ONCE) is one
    with pytest.raises(NoCapacity, match="4 sandboxes: memory full"):
        choose_host([one], {one.host_id: Load(1, 1, 0)}, four, ONCE)


def test_what_has_its_disk_already_needs_none():
    full = host(disk_gib=1)
    resumed = Wanted("minimal", memory_mb=512, disk_mb=0, host_id=full.host_id)
    assert choose_host([full], {full.host_id: Load(0, 0, 5120)}, resumed, ONCE) is full


def test_shares_are_promised_rather_than_disks():
    """With the sums of the agent: see `protocol.disk_share`."""
    one = host(disk_gib=31, share_mb=8 * 1024)
    # Two of the default size and one of 10 GiB have 8 + 8 + 13 GiB of 2 × 31.
    load = Load(disk_mb=2 * 5120 + 10 * 1024, disks=3)
    twice = Overcommit(memory=1, disk=2.0)
    four = Wanted("minimal", memory_mb=1, disk_mb=5120, count=4)
    assert choose_host([one], {one.host_id: load}, four, twice) is one
    with pytest.raises(NoCapacity, match="disk full"):
        choose_host([one], {one.host_id: load}, replace(four, count=5), twice)
    with pytest.raises(NoCapacity, match="disk full"):
        choose_host([one], {one.host_id: load}, replace(four, disk_mb=7 * 1024), twice)
    unlimited = replace(one, sandbox_disk_b=0)
    assert choose_host([unlimited], {one.host_id: load}, replace(four, count=8), twice) is unlimited
    with pytest.raises(NoCapacity, match="disk full"):
        choose_host([unlimited], {one.host_id: load}, replace(four, count=9), twice)


def test_a_team_that_brings_its_hosts_gets_no_other_and_others_get_none_of_them():
    regular, own = host(memory_gib=8), host(memory_gib=2, team_id=TeamId.new())
    on_own = replace(WANTED, on_own_hosts=True)
    assert choose_host([regular, own], {}, on_own, ONCE) is own
    assert choose_host([regular, own], {}, WANTED, ONCE) is regular
    with pytest.raises(NoCapacity, match="No host of the team can be reached"):
        choose_host([regular], {}, on_own, ONCE)
    # What has its host stays there.
    assert choose_host([regular, own], {}, replace(on_own, host_id=regular.host_id), ONCE) is regular
