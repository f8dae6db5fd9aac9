"""Which of a host's sandboxes are copies that must give way, by generation. Pure.

A sandbox's row has a generation, which is raised whenever the sandbox is started on another host. Its host got the generation
with the sandbox and reports it. So a host that was away while its sandboxes were started elsewhere is recognised, and the newer
copy is never touched. 0 is the generation of a sandbox whose agent or journal is of a version without generations: not known.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from wrenn.base.ids import SandboxId
from wrenn.control.hosts import HostSandbox
from wrenn.control.sandboxes.records import Sandbox


@dataclass(frozen=True, slots=True)
class Fenced:
    """A host's list of sandboxes, beside the rows that name this host.

    Attributes:
        rows: without those of which the host has a newer copy: they were read too early.
        seen: what the host reports, without outdated copies, and without newer ones than their rows.
        outdated: copies that are older than their rows, and must be removed.
    """

    rows: Mapping[SandboxId, Sandbox]
    seen: Mapping[SandboxId, HostSandbox]
    outdated: Mapping[SandboxId, HostSandbox]


@dataclass(frozen=True, slots=True)
class OtherRow:
    """A row that was not among those of the host that lists its sandbox, when these were read.

    Attributes:
        is_here: it names that host now.
        is_moving_here: it names that host as the target of a move.
        move_generation: the highest generation that was given to the target of a move.
        is_damaged: it has ended as its files were damaged, and they are not to be removed from the host yet.
    """

    has_ended: bool
    is_here: bool
    generation: int
    is_moving_here: bool = False
    move_generation: int = 0
    is_damaged: bool = False


def fence(rows: Mapping[SandboxId, Sandbox], listed: Mapping[SandboxId, HostSandbox]) -> Fenced:
    """Compare the generations of all sandboxes that a host lists with those of its rows."""
    outdated = {
        sandbox_id: seen
        for sandbox_id, seen in listed.items()
        if sandbox_id in rows and 0 < seen.generation < rows[sandbox_id].generation
    }
    newer = {
        sandbox_id
        for sandbox_id, seen in listed.items()
        if sandbox_id in rows and seen.generation > rows[sandbox_id].generation
    }
    return Fenced(
        rows={sandbox_id: row for sandbox_id, row in rows.items() if sandbox_id not in newer},
        seen={
            sandbox_id: seen
            for sandbox_id, seen in listed.items()
            if sandbox_id not in newer and sandbox_id not in outdated
        },
        outdated=outdated,
    )


def must_give_way(seen: HostSandbox, row: OtherRow | None) -> bool:
    """Whether a sandbox that is in none of its host's rows is unwanted there: unknown, ended, or another host's by now.

    `row` was read after the host listed it. If it is older than what the host has, it is left alone: the target of a move has the
    sandbox before the row says so.
    """
    if row is None or row.has_ended:
        return row is None or not row.is_damaged
    known = max(row.generation, row.move_generation)
    return not row.is_here and not row.is_moving_here and seen.generation <= known


def removable_generation(seen: HostSandbox, row: OtherRow | None) -> int:
    """Return the newest generation that a removal may meet on the host, which may have got a newer one since; 0: any."""
    if row is None or row.has_ended:
        return 0
    return seen.generation or row.generation
