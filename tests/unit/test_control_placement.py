"""The choice of a host, and what is said when none has room."""

from __future__ import annotations

from dataclasses import replace

import pytest

from wrenn.base.errors import NoCapacity, NotFound, Unavailable
from wrenn.base.ids import HostId, TeamId
from wrenn.base.units import GIB, MIB
from wrenn.control.hosts import Host, HostDraining, HostStatus
from wrenn.control.placement import FilterName, Load, Overcommit, Wanted, choose_host, judge, ranked, refusal
from wrenn.protocol.vm_platform import VmPlatform

WANTED = Wanted("minimal", vcpus=1, memory_mb=512, disk_mb=5120)
SAVED_ON = VmPlatform(
    arch="x86_64", vmm="qemu 7", accelerator="kvm", devices="12ab", cpu="AuthenticAMD/25/1/1"
)
ONCE = Overcommit(memory=1.0, disk=1.0, vcpus=100.0)


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
    cores: int = 2,
    tags: frozenset[str] = frozenset(),
    is_draining: bool = False,
    platform: VmPlatform | None = None,
) -> Host:
    return Host(
        host_id=HostId.new(),
        name="h",
        address="https://h",
        status=status,
        cpu_cores=cores,
        memory_b=memory_gib * GIB,
        disk_b=disk_gib * GIB,
        disk_available_b=disk_gib * GIB,
        sandbox_disk_b=share_mb * MIB,
        sandbox_limit=slots,
        templates=templates,
        silent_s=silent_s,
        cert_epoch=0,
        is_reachable=status is HostStatus.ONLINE,
        team_id=team_id,
        tags=tags,
        is_draining=is_draining,
        platform=platform or VmPlatform(),
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
        (Load(1, vcpus=200), "vCPUs"),
        (Load(1, 0, 100 * 1024), "disk"),
        (Load(10, 4096, 100 * 1024, vcpus=200), "sandbox slots"),
    ],
)
def test_what_is_full_is_named(load: Load, full: str):
    one = host()
    with pytest.raises(NoCapacity) as refusal:
        choose_host([one], {one.host_id: load}, WANTED, ONCE)
    assert f": {full} full (1 host)." in refusal.value.message


def test_memory_and_disk_may_be_promised_more_than_once():
    one = host(memory_gib=1, disk_gib=10)
    load = {one.host_id: Load(4, 2048, 20480)}
    assert choose_host([one], load, WANTED, Overcommit(memory=4, disk=4, vcpus=100)) is one


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
    pinned = Wanted("own", vcpus=1, memory_mb=512, disk_mb=5120, host_id=its.host_id)
    assert choose_host([its, larger], {}, pinned, ONCE) is its
    with pytest.raises(NoCapacity, match=r"only one that has its files.*memory full"):
        choose_host([its, larger], {its.host_id: Load(2, 1024, 0)}, pinned, ONCE)
    with pytest.raises(Unavailable):
        choose_host([larger], {}, pinned, ONCE)


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"arch": "aarch64"}, "architecture"),
        ({"vmm": "qemu 8"}, "VMM or accelerator"),
        ({"accelerator": "tcg"}, "VMM or accelerator"),
        ({"devices": "34cd"}, "VMM or accelerator"),
        ({"cpu": "GenuineIntel/6/85/7"}, "processor"),
    ],
)
def test_a_snapshot_is_restored_where_all_that_it_was_saved_on_is_the_same(
    changed: dict[str, str], said: str
):
    other, same = host(memory_gib=64, platform=replace(SAVED_ON, **changed)), host(platform=SAVED_ON)
    from_snapshot = replace(WANTED, platform=SAVED_ON)
    assert choose_host([other, same], {}, from_snapshot, ONCE) is same
    assert choose_host([other, same], {}, WANTED, ONCE) is other
    with pytest.raises(NoCapacity, match=f"{said}.* than the snapshot"):
        choose_host([other], {}, from_snapshot, ONCE)
    with pytest.raises(NoCapacity, match=f"cannot restore it now: .*{said} than the snapshot"):
        choose_host([other], {}, replace(from_snapshot, host_id=other.host_id), ONCE)
    # What an agent of before does not say keeps nothing from its host.
    unknown = host(memory_gib=64, platform=replace(SAVED_ON, **dict.fromkeys(changed, "")))
    assert choose_host([unknown, same], {}, from_snapshot, ONCE) is unknown


def test_a_batch_needs_capacity_for_all():
    one = host(memory_gib=2)
    four = Wanted("minimal", vcpus=1, memory_mb=512, disk_mb=5120, host_id=one.host_id, count=4)
    assert choose_host([one], {}, four, ONCE) is one
    with pytest.raises(NoCapacity, match="4 sandboxes: memory full"):
        choose_host([one], {one.host_id: Load(1, 1, 0)}, four, ONCE)


def test_what_has_its_disk_already_needs_none():
    full = host(disk_gib=1)
    resumed = Wanted("minimal", vcpus=1, memory_mb=512, disk_mb=0, host_id=full.host_id)
    assert choose_host([full], {full.host_id: Load(0, 0, 5120)}, resumed, ONCE) is full


def test_shares_are_promised_rather_than_disks():
    """With the sums of the agent: see `protocol.disk_share`."""
    one = host(disk_gib=31, share_mb=8 * 1024)
    # Two of the default size and one of 10 GiB have 8 + 8 + 13 GiB of 2 × 31.
    load = Load(disk_mb=2 * 5120 + 10 * 1024, disks=3)
    twice = Overcommit(memory=1, disk=2.0, vcpus=100)
    four = Wanted("minimal", vcpus=1, memory_mb=1, disk_mb=5120, count=4)
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
    on_own = replace(WANTED, team_id=own.team_id, on_own_hosts=True)
    assert choose_host([regular, own], {}, on_own, ONCE) is own
    assert choose_host([regular, own], {}, WANTED, ONCE) is regular
    with pytest.raises(NoCapacity, match=r"No host of the team can be reached now\. "):
        choose_host([regular, host(team_id=TeamId.new())], {}, on_own, ONCE)
    # What has its host stays there.
    assert choose_host([regular, own], {}, replace(on_own, host_id=regular.host_id), ONCE) is regular


def test_all_tags_asked_for_must_be_on_the_host():
    plain, one, both = (
        host(memory_gib=64),
        host(tags=frozenset({"gpu"})),
        host(tags=frozenset({"gpu", "nvme"})),
    )
    tagged = replace(WANTED, host_tags=frozenset({"gpu", "nvme"}))
    assert choose_host([plain, one, both], {}, tagged, ONCE) is both
    with pytest.raises(NoCapacity, match=r"without the tags \(2 hosts\)"):
        choose_host([plain, one], {}, tagged, ONCE)
    # Also where its files are: what was asked for is never left out silently.
    with pytest.raises(NoCapacity, match="without the tags"):
        choose_host([plain], {}, replace(tagged, host_id=plain.host_id), ONCE)


def test_each_filter_counts_the_hosts_that_it_is_the_first_to_remove():
    team = TeamId.new()
    hosts = {
        FilterName.TEAM: host(team_id=team),
        FilterName.REACHABLE: host(status=HostStatus.UNREACHABLE, silent_s=60, templates=frozenset()),
        FilterName.DRAINING: host(is_draining=True, templates=frozenset()),
        FilterName.TAGS: host(templates=frozenset()),
        FilterName.TEMPLATE: host(tags=frozenset({"a"}), templates=frozenset(), slots=0),
        FilterName.ARCHITECTURE: host(
            tags=frozenset({"a"}), platform=replace(SAVED_ON, arch="aarch64", vmm="x")
        ),
        FilterName.VMM: host(tags=frozenset({"a"}), platform=replace(SAVED_ON, vmm="qemu 8", cpu="other")),
        FilterName.CPU: host(tags=frozenset({"a"}), platform=replace(SAVED_ON, cpu="other"), slots=0),
        FilterName.SANDBOX_SLOTS: host(tags=frozenset({"a"}), slots=0, memory_gib=0),
        FilterName.MEMORY: host(tags=frozenset({"a"}), memory_gib=0, cores=0),
        FilterName.VCPUS: host(tags=frozenset({"a"}), cores=0, disk_gib=0),
        FilterName.DISK: host(tags=frozenset({"a"}), disk_gib=0),
    }
    wanted = replace(WANTED, host_tags=frozenset({"a"}), platform=SAVED_ON)
    verdicts = list(judge(hosts.values(), {}, wanted, ONCE))
    assert [verdict.removed_by for verdict in verdicts] == list(hosts)
    error = refusal(verdicts, wanted)
    assert isinstance(error, NoCapacity)
    # Another team's host is not counted.
    assert error.message == (
        "No host has room for this sandbox: not reachable (1 host), being drained (1 host), without the tags (1 host), "
        "without the template (1 host), of another architecture than the snapshot (1 host), with another VMM or accelerator "
        "than the snapshot (1 host), with another processor than the snapshot (1 host), sandbox slots full (1 host), memory full (1 host), vCPUs full (1 host), disk full (1 host)."
    )


def test_a_template_that_only_hosts_without_the_tags_have_is_not_unknown():
    with pytest.raises(NoCapacity, match="tags"):
        choose_host([host()], {}, replace(WANTED, host_tags=frozenset({"a"})), ONCE)


def test_of_hosts_loaded_alike_one_where_the_template_was_started_is_chosen_unless_it_is_busy_creating():
    hosts = [host(memory_gib=64, disk_gib=10_000, slots=1000) for _ in range(3)]
    loads = {each.host_id: Load(1, 512, 5120, 1, 1) for each in hosts}
    warm = loads | {hosts[1].host_id: Load(1, 512, 5120, 1, 1, has_template=True)}
    assert choose_host(hosts, warm, WANTED, ONCE) is hosts[1]
    busy = loads | {hosts[1].host_id: Load(1, 512, 5120, 1, 1, creates=1, has_template=True)}
    assert choose_host(hosts, busy, WANTED, ONCE) is hosts[0]
    # Spread goes before.
    fuller = loads | {hosts[1].host_id: Load(2, 1024, 10240, 2, 2, has_template=True)}
    assert choose_host(hosts, fuller, WANTED, ONCE) is hosts[0]
    creating = {hosts[0].host_id: Load(creates=1)}
    assert choose_host(hosts, creating, WANTED, ONCE) is hosts[1]


def test_hosts_that_refused_lately_are_the_last_choice():
    refused, small = host(memory_gib=64), host(memory_gib=1)
    backed_off = {refused.host_id}
    assert choose_host([refused, small], {}, WANTED, ONCE, backed_off=backed_off) is small
    assert choose_host([refused], {}, WANTED, ONCE, backed_off=backed_off) is refused
    verdicts = judge([refused, small], {}, WANTED, ONCE, backed_off=backed_off)
    assert ranked(verdicts) == [small, refused]


def test_nothing_is_placed_on_a_draining_host():
    draining, other = host(memory_gib=8, is_draining=True), host(memory_gib=2)
    assert choose_host([draining, other], {}, WANTED, ONCE) is other
    with pytest.raises(NoCapacity, match="being drained"):
        choose_host([draining], {}, WANTED, ONCE)
    # Also what can be nowhere else.
    with pytest.raises(HostDraining):
        choose_host([draining, other], {}, replace(WANTED, host_id=draining.host_id), ONCE)


def test_a_host_that_has_the_snapshot_is_chosen_unless_another_one_is_much_emptier():
    its, other = (host(memory_gib=64, disk_gib=10_000, slots=100, cores=64) for _ in range(2))
    stored = replace(WANTED, template="own", is_obtainable=True, files_on=frozenset({its.host_id}))
    assert choose_host([other, its], {its.host_id: Load(sandboxes=20)}, stored, ONCE) is its
    assert choose_host([other, its], {its.host_id: Load(sandboxes=30)}, stored, ONCE) is other
    assert choose_host([other, replace(its, is_draining=True)], {}, stored, ONCE) is other
