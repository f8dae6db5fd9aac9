"""What keeps a sandbox from a host: named filters in a fixed order.

Admission counts what was promised, not what is used now: memory, virtual CPUs and shares of the disk
(`protocol.disk_share`) of all sandboxes against the machine's size times an overcommit factor (an idle sandbox uses a
tenth of its memory, hardly any processor time, and little of its share), and network slots exactly.
"""

from __future__ import annotations

import enum
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from wrenn.base.ids import HostId, TeamId
from wrenn.base.units import MIB
from wrenn.control.hosts import Host, HostStatus
from wrenn.protocol.disk_share import committed_b
from wrenn.protocol.vm_platform import UNKNOWN_PLATFORM, VmPlatform

BRIEF_SILENCE_S: Final = 10.0
"""An agent is back within some seconds of a restart; a create asks a silent host again for longer than that."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """The sandboxes to be placed: `count` of this size.

    Attributes:
        template: image that the host must have; not asked for where `host_id` is given.
        is_obtainable: every host can get what it is made from, from the store.
        files_on: hosts that have it already; other things being nearly equal, one of them is chosen.
        disk_mb: size of its disk; 0 for what has its disk already, whose share is promised from its create to its end.
        host_id: the one host on which it can be, as its snapshot lies there.
        count: how many; 0: one that is counted in the host's load already.
        host_tags: which the host must have, all of them.
        team_id: whose sandboxes; None: of any team without hosts of its own.
        on_own_hosts: on hosts of its team (BYOC) and on no other; False: on regular ones. What has its host stays there.
        not_on: a host on which it must not be, since it is there already.
        platform: what its snapshot needs to be restored, as far as that is known.
    """

    template: str
    vcpus: int
    memory_mb: int
    disk_mb: int
    host_id: HostId | None = None
    count: int = 1
    host_tags: frozenset[str] = frozenset()
    team_id: TeamId | None = None
    on_own_hosts: bool = False
    platform: VmPlatform = UNKNOWN_PLATFORM
    is_obtainable: bool = False
    not_on: HostId | None = None
    files_on: frozenset[HostId] = frozenset()


@dataclass(frozen=True, slots=True)
class Load:
    """What is promised to the sandboxes of one host.

    Attributes:
        sandboxes, memory_mb, vcpus: of those that are in memory.
        disks, disk_mb: how many have a disk, also paused ones, and the size of all disks.
        creates: sandboxes that are not started yet.
        has_template: a sandbox of the wanted template has been started there and has not ended.
    """

    sandboxes: int = 0
    memory_mb: int = 0
    disk_mb: int = 0
    disks: int = 0
    vcpus: int = 0
    creates: int = 0
    has_template: bool = False


@dataclass(frozen=True, slots=True)
class Overcommit:
    """How much may be promised, as a multiple of the machine's size."""

    memory: float
    disk: float
    vcpus: float


class FilterName(enum.StrEnum):
    """The filters, in the order in which they are applied."""

    TEAM = "team"
    """It is another team's, or the team runs its sandboxes on other hosts."""
    FILES = "files"
    """What the sandbox is made from lies on another host."""
    PRESENT_HOST = "present_host"
    """The sandbox is there, and is to be moved elsewhere."""
    REACHABLE = "reachable"
    """It does not answer."""
    DRAINING = "draining"
    """It is drained."""
    TAGS = "tags"
    """It lacks a tag that was asked for."""
    TEMPLATE = "template"
    """It does not have the template."""
    ARCHITECTURE = "architecture"
    """It is of another architecture than the snapshot was saved on."""
    VMM = "vmm"
    """It has another VMM, accelerator or virtual devices than the snapshot was saved with."""
    CPU = "cpu"
    """It has another processor, which guests see, than the snapshot was saved on."""
    SANDBOX_SLOTS = "sandbox_slots"
    MEMORY = "memory"
    VCPUS = "vcpus"
    DISK = "disk"


@dataclass(frozen=True, slots=True)
class Filter:
    """A filter. `admits` returns whether the host remains; `removed` describes the hosts that do not."""

    name: FilterName
    admits: Callable[[Host, Load, Wanted, Overcommit], bool]
    removed: str


def answers(host: Host) -> bool:
    """Whether the host answers, or is silent so briefly that its agent may be restarting."""
    return host.is_reachable or (host.status is not HostStatus.PENDING and host.silent_s < BRIEF_SILENCE_S)


def has_template(host: Host, wanted: Wanted) -> bool:
    """Whether the host has what the sandbox is made from, or can get it."""
    return wanted.host_id is not None or wanted.is_obtainable or wanted.template in host.templates


def _is_for_team(host: Host, _load: Load, wanted: Wanted, _overcommit: Overcommit) -> bool:
    if wanted.host_id is not None:
        return True
    return host.team_id == (wanted.team_id if wanted.on_own_hosts else None)


def slots_left(host: Host, load: Load, wanted: Wanted) -> float:
    """Compute the fraction of the host's sandbox slots that would be left; negative: the sandbox does not fit."""
    return _left(load.sandboxes + wanted.count, host.sandbox_limit)


def memory_left(host: Host, load: Load, wanted: Wanted, overcommit: Overcommit) -> float:
    """Compute the fraction of memory that would be left, like `slots_left`."""
    taken_b = (load.memory_mb + wanted.count * wanted.memory_mb) * MIB
    return _left(taken_b, host.memory_b * overcommit.memory)


def vcpus_left(host: Host, load: Load, wanted: Wanted, overcommit: Overcommit) -> float:
    """Compute the fraction of virtual CPUs that would be left, like `slots_left`."""
    return _left(load.vcpus + wanted.count * wanted.vcpus, host.cpu_cores * overcommit.vcpus)


def disk_left(host: Host, load: Load, wanted: Wanted, overcommit: Overcommit) -> float:
    """Compute the fraction of the disk that would be left, like `slots_left`; 1 for what needs no disk."""
    if not wanted.disk_mb:
        return 1.0
    taken_b = committed_b(
        load.disk_mb + wanted.count * wanted.disk_mb, host.sandbox_disk_b, count=load.disks + wanted.count
    )
    return _left(taken_b, host.disk_b * overcommit.disk)


def _left(taken: float, limit: float) -> float:
    return 1 - taken / limit if limit else -1.0


FILTERS: Final = (
    Filter(FilterName.TEAM, _is_for_team, "for another team"),
    Filter(
        FilterName.FILES,
        lambda host, _load, wanted, _overcommit: wanted.host_id in (None, host.host_id),
        "without the files",
    ),
    Filter(
        FilterName.PRESENT_HOST,
        lambda host, _load, wanted, _overcommit: host.host_id != wanted.not_on,
        "where it is already",
    ),
    Filter(
        FilterName.REACHABLE,
        lambda host, _load, _wanted, _overcommit: answers(host),
        "not reachable",
    ),
    Filter(
        FilterName.DRAINING,
        lambda host, _load, _wanted, _overcommit: not host.is_draining,
        "being drained",
    ),
    Filter(
        FilterName.TAGS,
        lambda host, _load, wanted, _overcommit: wanted.host_tags <= host.tags,
        "without the tags",
    ),
    Filter(
        FilterName.TEMPLATE,
        lambda host, _load, wanted, _overcommit: has_template(host, wanted),
        "without the template",
    ),
    Filter(
        FilterName.ARCHITECTURE,
        lambda host, _load, wanted, _overcommit: host.platform.has_same_arch(wanted.platform),
        "of another architecture than the snapshot",
    ),
    Filter(
        FilterName.VMM,
        lambda host, _load, wanted, _overcommit: host.platform.has_same_vmm(wanted.platform),
        "with another VMM or accelerator than the snapshot",
    ),
    Filter(
        FilterName.CPU,
        lambda host, _load, wanted, _overcommit: host.platform.has_same_cpu(wanted.platform),
        "with another processor than the snapshot",
    ),
    Filter(
        FilterName.SANDBOX_SLOTS,
        lambda host, load, wanted, _overcommit: slots_left(host, load, wanted) >= 0,
        "sandbox slots full",
    ),
    Filter(
        FilterName.MEMORY,
        lambda host, load, wanted, overcommit: memory_left(host, load, wanted, overcommit) >= 0,
        "memory full",
    ),
    Filter(
        FilterName.VCPUS,
        lambda host, load, wanted, overcommit: vcpus_left(host, load, wanted, overcommit) >= 0,
        "vCPUs full",
    ),
    Filter(
        FilterName.DISK,
        lambda host, load, wanted, overcommit: disk_left(host, load, wanted, overcommit) >= 0,
        "disk full",
    ),
)
assert [each.name for each in FILTERS] == list(FilterName), (
    "every filter is applied, in the order of its name"
)

INCOMPATIBLE: Final = frozenset({FilterName.ARCHITECTURE, FilterName.VMM, FilterName.CPU})
"""What these remove cannot restore the snapshot."""
OTHERS: Final = frozenset({FilterName.TEAM, FilterName.FILES})
"""What these remove is no host that the sandbox may use at all: its owner is not told how many there are."""
