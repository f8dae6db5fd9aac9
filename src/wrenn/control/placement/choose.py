"""Chooses the host with the most free capacity among those that have the template, are online and fit the request.

Admission counts what was promised, not what is used now: memory and shares of the disk (`protocol.disk_share`) of all
sandboxes against the machine's size times an overcommit factor (an idle sandbox uses a tenth of its memory, and little of
its share), and network slots exactly.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from wrenn.base.errors import NoCapacity, NotFound, Unavailable
from wrenn.base.ids import HostId
from wrenn.base.units import MIB
from wrenn.control.hosts import Host, HostStatus
from wrenn.protocol.disk_share import committed_b

BRIEF_SILENCE_S: Final = 10.0
"""An agent is back within some seconds of a restart; a create asks a silent host again for longer than that."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """The sandboxes to be placed: `count` of this size.

    Attributes:
        template: image that the host must have; not asked for where `host_id` is given.
        disk_mb: size of its disk; 0 for what has its disk already, whose share is promised from its create to its end.
        host_id: the one host on which it can be, as its snapshot lies there.
        on_own_hosts: on hosts of its team (BYOC) and on no other; False: on regular ones. What has its host stays there.
    """

    template: str
    memory_mb: int
    disk_mb: int
    host_id: HostId | None = None
    count: int = 1
    on_own_hosts: bool = False


@dataclass(frozen=True, slots=True)
class Load:
    """What is promised to the sandboxes of one host.

    Attributes:
        sandboxes, memory_mb: of those that are in memory.
        disks, disk_mb: how many have a disk, also paused ones, and the size of all disks.
    """

    sandboxes: int = 0
    memory_mb: int = 0
    disk_mb: int = 0
    disks: int = 0


@dataclass(frozen=True, slots=True)
class Overcommit:
    """How much may be promised, as a multiple of the machine's size."""

    memory: float
    disk: float


def choose_host(
    hosts: Sequence[Host], loads: Mapping[HostId, Load], wanted: Wanted, overcommit: Overcommit
) -> Host:
    """Choose the host for this sandbox, among the regular ones and those of its team.

    Raises:
        NoCapacity: no host answers, or none has room; the message says what is full.
        NotFound: no host that answers has the template.
        Unavailable: the one host on which it can be does not answer.
    """
    having = _possible(hosts, wanted)
    full: set[str] = set()
    best: tuple[tuple[bool, float], Host] | None = None
    for host in having:
        fractions = _fractions_left(host, loads.get(host.host_id, Load()), wanted, overcommit)
        lacking = [what for what, left in fractions.items() if left < 0]
        full.update(lacking)
        # One that answers goes before one that may be restarting, however much room that has.
        score = (host.is_reachable, min(fractions.values()))
        if not lacking and (best is None or score > best[0]):
            best = (score, host)
    if best is None:
        what = "this sandbox" if wanted.count <= 1 else f"{wanted.count} sandboxes"
        where = "No host" if wanted.host_id is None else "Its host, the only one that has its files,"
        lacks = "has room" if wanted.host_id is None else "has no room"
        raise NoCapacity(f"{where} {lacks} for {what}: {', '.join(sorted(full))} full.")
    return best[1]


def check_larger_disk(host: Host, load: Load, more_mb: int, overcommit: Overcommit) -> None:
    """Return if the disks on this host may grow by `more_mb` together.

    Raises:
        NoCapacity: they may not.
    """
    promised = committed_b(load.disk_mb + more_mb, host.sandbox_disk_b, count=load.disks)
    if promised > host.disk_b * overcommit.disk:
        raise NoCapacity("Its host has no room for a larger disk: disk full.")


def _possible(hosts: Sequence[Host], wanted: Wanted) -> list[Host]:
    online = [host for host in hosts if _answers(host)]
    if wanted.host_id is not None:
        its = [host for host in online if host.host_id == wanted.host_id]
        if not its:
            raise Unavailable("The only host that has its files does not answer now.")
        return its
    online = [host for host in online if (host.team_id is not None) is wanted.on_own_hosts]
    if not online:
        which = "No host of the team" if wanted.on_own_hosts else "No host"
        raise NoCapacity(f"{which} can be reached now. Try again in some seconds.")
    having = [host for host in online if wanted.template in host.templates]
    if not having:
        raise NotFound(f"There is no template named {wanted.template}.")
    return having


def _answers(host: Host) -> bool:
    """Whether the host answers, or is silent so briefly that its agent may be restarting."""
    briefly = host.status is not HostStatus.PENDING and host.silent_s < BRIEF_SILENCE_S
    return host.is_reachable or briefly


def _fractions_left(host: Host, load: Load, wanted: Wanted, overcommit: Overcommit) -> dict[str, float]:
    """Compute the fraction of each resource that would be left; negative: the sandbox does not fit."""
    limits: dict[str, tuple[float, float]] = {
        "sandbox slots": (load.sandboxes + wanted.count, host.sandbox_limit),
        "memory": (
            (load.memory_mb + wanted.count * wanted.memory_mb) * MIB,
            host.memory_b * overcommit.memory,
        ),
    }
    if wanted.disk_mb:
        promised = committed_b(
            load.disk_mb + wanted.count * wanted.disk_mb,
            host.sandbox_disk_b,
            count=load.disks + wanted.count,
        )
        limits["disk"] = (promised, host.disk_b * overcommit.disk)
    return {what: 1 - taken / limit if limit else -1.0 for what, (taken, limit) in limits.items()}
