"""Determines who owns which resource: the running agent reports it; without one, the journals do."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from wrenn.agent.data_folder import is_held
from wrenn.agent.doctor.check_result import Check
from wrenn.agent.doctor.stored_files import find_stored_files
from wrenn.agent.layout import Layout
from wrenn.agent.local_client import call
from wrenn.agent.sandboxes import Record, journal
from wrenn.agent.sandboxes.garbage_collector import Referenced
from wrenn.base.errors import AgentFailure, DeadlineExceeded, InternalError, Unavailable
from wrenn.protocol.host import host_pb as pb

_CALL_TIMEOUT_S: Final = 5.0


@dataclass(frozen=True, slots=True)
class Owners:
    """The resources that are not leftovers, by kind.

    Attributes:
        complete: False if an agent runs and does not answer, or a journal cannot be read: then owners are unknown.
        agent_runs: whether an agent runs, which owns the drafts of bases and snapshots.
        stored: the referenced snapshots and layers, and which of them are missing.
    """

    sandboxes: frozenset[str]
    slots: frozenset[int]
    stored: Referenced
    agent_runs: bool
    complete: bool
    check: Check


async def find_owners(layout: Layout) -> Owners:
    """Ask the running agent which resources it owns; if none runs, read the journals."""
    runs = is_held(layout.data_dir)
    try:
        return await _from_agent(layout) if runs else _from_journals(layout)
    except (Unavailable, DeadlineExceeded, AgentFailure) as error:
        detail, hint = f"runs and does not answer: {error.message}", "Look at its log; restart it."
    except InternalError as error:
        detail, hint = error.message, "Repair the file, or remove its folder and with it the sandbox."
    check = Check("agent", ok=False, detail=detail, hint=hint)
    return Owners(frozenset(), frozenset(), Referenced(), agent_runs=runs, complete=False, check=check)


async def _from_agent(layout: Layout) -> Owners:
    host = await call(layout.socket, "GetHost", pb.GetHostRequest(), pb.Host, timeout_s=_CALL_TIMEOUT_S)
    listed = await call(
        layout.socket,
        "ListSandboxes",
        pb.ListSandboxesRequest(),
        pb.ListSandboxesResponse,
        timeout_s=_CALL_TIMEOUT_S,
    )
    return Owners(
        sandboxes=frozenset(sandbox.sandbox_id for sandbox in listed.sandboxes),
        slots=frozenset(host.owned_slots),
        stored=find_stored_files(layout, _records(layout)),
        agent_runs=True,
        complete=True,
        check=Check(
            "agent",
            ok=True,
            detail=f"runs, {len(listed.sandboxes)} sandboxes, {host.vmm}, {host.accelerator}",
        ),
    )


def _records(layout: Layout) -> list[Record]:
    """Read all journals.

    Raises:
        InternalError: a journal cannot be read, so its references are unknown.
    """
    directories = layout.sandboxes.iterdir() if layout.sandboxes.is_dir() else ()
    found = [journal.load(directory) for directory in directories if directory.is_dir()]
    return [record for record in found if record is not None]


def _from_journals(layout: Layout) -> Owners:
    records = _records(layout)
    living = [r for r in records if r.process is not None and r.process.is_alive()]
    alive = {r.spec.sandbox_id for r in living}
    resting = [r for r in records if r.snapshot and r.spec.sandbox_id not in alive]
    check = Check(
        "agent",
        ok=True,
        detail=f"not running; {len(living)} sandboxes live without it, {len(resting)} are paused",
    )
    return Owners(
        sandboxes=frozenset(str(r.spec.sandbox_id) for r in (*living, *resting)),
        slots=frozenset(r.slot for r in living if r.slot is not None),
        stored=find_stored_files(layout, records),
        agent_runs=False,
        complete=True,
        check=check,
    )
