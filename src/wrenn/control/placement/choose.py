"""Chooses the host for a new sandbox: filters, then the best score; and explains each host's result."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from wrenn.base.errors import NoCapacity, NotFound, Unavailable, WrennError
from wrenn.base.ids import HostId
from wrenn.control.hosts import Host, HostDraining
from wrenn.control.placement.filters import (
    FILTERS,
    INCOMPATIBLE,
    OTHERS,
    FilterName,
    Load,
    Overcommit,
    Wanted,
    answers,
    disk_left,
    has_template,
    memory_left,
    slots_left,
    vcpus_left,
)
from wrenn.protocol.disk_share import committed_b

_TEMPLATE_BONUS: Final = 0.002
"""In fractions of a host: less than a usual sandbox takes, so that it decides between hosts that are loaded alike, and
sandboxes of one template are spread too."""
_FILES_BONUS: Final = 0.25
"""To fetch a snapshot takes seconds, once: a host without it is chosen when it has so much more room than those that have it."""
_CREATE_PENALTY: Final = 0.01
"""For each create under way: a boot takes a core for a second."""

NO_LOAD: Final = Load()


@dataclass(frozen=True, slots=True, order=True)
class Score:
    """How well a host suits; the greatest is chosen.

    Attributes:
        is_ready: it answers, and refused nothing lately. One that is ready goes before any that is not.
        value: the fraction of the scarcest resource that would be left, with small corrections for a template that was
            started there and for creates under way.
    """

    is_ready: bool
    value: float


@dataclass(frozen=True, slots=True)
class Verdict:
    """What placement finds about one host: the filter that removed it, or its score."""

    host: Host
    load: Load
    removed_by: FilterName | None
    score: Score | None


def judge(
    hosts: Iterable[Host],
    loads: Mapping[HostId, Load],
    wanted: Wanted,
    overcommit: Overcommit,
    *,
    backed_off: Collection[HostId] = (),
) -> Iterator[Verdict]:
    """Apply the filters to each host in turn, and score those that remain. `backed_off`: hosts that refused a sandbox lately."""
    for host in hosts:
        load = loads.get(host.host_id, NO_LOAD)
        removed_by = next(
            (each.name for each in FILTERS if not each.admits(host, load, wanted, overcommit)), None
        )
        score = (
            None
            if removed_by is not None
            else _score(host, load, wanted, overcommit, is_backed_off=host.host_id in backed_off)
        )
        yield Verdict(host, load, removed_by, score)


def ranked(verdicts: Iterable[Verdict]) -> list[Host]:
    """Return the hosts that no filter removed, best first; of equal ones in the order given."""
    possible = [(verdict.score, verdict.host) for verdict in verdicts if verdict.score is not None]
    possible.sort(key=lambda each: each[0], reverse=True)
    return [host for _, host in possible]


def choose_host(
    hosts: Sequence[Host],
    loads: Mapping[HostId, Load],
    wanted: Wanted,
    overcommit: Overcommit,
    *,
    backed_off: Collection[HostId] = (),
) -> Host:
    """Choose the host for this sandbox.

    Raises:
        NoCapacity, NotFound, Unavailable: as `refusal` says.
    """
    verdicts = list(judge(hosts, loads, wanted, overcommit, backed_off=backed_off))
    best = ranked(verdicts)
    if not best:
        raise refusal(verdicts, wanted)
    return best[0]


def refusal(verdicts: Sequence[Verdict], wanted: Wanted) -> WrennError:
    """Return the error for a sandbox that no host can take, for the sandbox's owner: it names no host.

    NoCapacity says which filter removed how many of the hosts that the sandbox may use. NotFound: no host that answers has
    the template. Unavailable: the one host on which it can be does not answer. HostDraining: that one is drained.
    """
    usable = [verdict for verdict in verdicts if verdict.removed_by not in OTHERS]
    removed = Counter(verdict.removed_by for verdict in usable)
    counts = [(each, removed[each.name]) for each in FILTERS if removed[each.name]]
    if wanted.host_id is not None or _has_one_host(usable, wanted):
        if not usable or FilterName.REACHABLE in removed:
            return Unavailable("The only host that has its files does not answer now.")
        if FilterName.DRAINING in removed:
            return HostDraining(
                "The only host that has its files is being drained: nothing is started there until its operator puts it "
                "back into use."
            )
        reasons = ", ".join(each.removed for each, _ in counts)
        if not INCOMPATIBLE.isdisjoint(removed):
            return NoCapacity(f"Its host, the only one that has its files, cannot restore it now: {reasons}.")
        return NoCapacity(
            f"Its host, the only one that has its files, has no room for {_what(wanted)}: {reasons}."
        )
    reasons = ", ".join(f"{each.removed} ({_hosts(count)})" for each, count in counts)
    if removed[FilterName.REACHABLE] == len(usable):
        which = "No host of the team" if wanted.on_own_hosts else "No host"
        said = f": {reasons}" if reasons else ""
        return NoCapacity(f"{which} can be reached now{said}. Try again in some seconds.")
    if not any(has_template(verdict.host, wanted) for verdict in usable if answers(verdict.host)):
        return NotFound(f"There is no template named {wanted.template}.")
    return NoCapacity(f"No host has room for {_what(wanted)}: {reasons}.")


def check_larger_disk(host: Host, load: Load, more_mb: int, overcommit: Overcommit) -> None:
    """Return if the disks on this host may grow by `more_mb` together.

    Raises:
        NoCapacity: they may not.
    """
    promised = committed_b(load.disk_mb + more_mb, host.sandbox_disk_b, count=load.disks)
    if promised > host.disk_b * overcommit.disk:
        raise NoCapacity("Its host has no room for a larger disk: disk full.")


def _score(host: Host, load: Load, wanted: Wanted, overcommit: Overcommit, *, is_backed_off: bool) -> Score:
    left = min(
        slots_left(host, load, wanted),
        memory_left(host, load, wanted, overcommit),
        vcpus_left(host, load, wanted, overcommit),
        disk_left(host, load, wanted, overcommit),
    )
    bonus = _TEMPLATE_BONUS * load.has_template + _FILES_BONUS * (host.host_id in wanted.files_on)
    value = left + bonus - _CREATE_PENALTY * load.creates
    return Score(host.is_reachable and not is_backed_off, value)


def _has_one_host(usable: Sequence[Verdict], wanted: Wanted) -> bool:
    """Whether the only host that the sandbox may use is one that has its files: no other one could get them."""
    return len(usable) == 1 and usable[0].host.host_id in wanted.files_on


def _what(wanted: Wanted) -> str:
    return "this sandbox" if wanted.count <= 1 else f"{wanted.count} sandboxes"


def _hosts(count: int) -> str:
    return f"{count} host" if count == 1 else f"{count} hosts"
