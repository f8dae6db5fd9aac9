"""Compare the journals with the machine, once, before the agent serves."""

from __future__ import annotations

import logging
from collections.abc import Generator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path

from wrenn.agent.bases import Bases
from wrenn.agent.confinement import release_cgroup
from wrenn.agent.layout import Layout
from wrenn.agent.sandboxes import journal
from wrenn.agent.sandboxes.journal import Record, State
from wrenn.agent.sandboxes.registry import Sandboxes
from wrenn.agent.sandboxes.running import RunningSandbox
from wrenn.agent.sandboxes.tear_down import TearDown
from wrenn.agent.tokens import Tokens
from wrenn.base.errors import InternalError, StorageFull
from wrenn.guest import GuestConnection
from wrenn.linux import cgroups
from wrenn.linux.files import remove_tree
from wrenn.network import Slots
from wrenn.vm import VmDriver, VmHandle

_log = logging.getLogger(__name__)

LOST_REASON = "The virtual machine ended while the agent was down."


@contextmanager
def _logging(event: str, name: str) -> Generator[None]:
    """One sandbox that cannot be cleaned up must not keep the agent from serving the others."""
    try:
        yield
    except Exception:  # noqa: BLE001 - whatever it is, the rest goes on; `wrenn doctor` lists what is left
        _log.exception(event, extra={"sandbox_id": name})


@dataclass(frozen=True, slots=True)
class _Found:
    adopted: list[Record]
    unfinished: list[Record]
    unreadable: list[str]


async def recover(
    *,
    layout: Layout,
    driver: VmDriver,
    slots: Slots,
    bases: Bases,
    tokens: Tokens,
    sandboxes: Sandboxes,
    tear_down: TearDown,
) -> None:
    """Bring agent and machine into agreement. Afterwards everything named after this block has an owner."""
    found = _read_journals(layout)
    known = {
        r.slot: str(r.spec.sandbox_id) for r in (*found.adopted, *found.unfinished) if r.slot is not None
    }
    # Without a journal nobody knows what a VMM is for; it must end before its network is swept.
    keep = {str(r.spec.sandbox_id) for r in (*found.adopted, *found.unfinished)}
    for name in cgroups.children(layout.cgroup_root):
        if name not in keep:
            with _logging("orphan is not removed", name):
                await release_cgroup(layout, name)
    await slots.start(known)
    bases.sweep()
    for name in found.unreadable:
        with _logging("folder is not removed", name):
            remove_tree(layout.sandboxes / name)
    for record in found.unfinished:
        with _logging("sandbox is not taken down", str(record.spec.sandbox_id)):
            await tear_down.run(record, None)
            continue
        # Known and to be removed: the control plane's next call goes on with it.
        sandboxes.adopt(replace(record, state=State.REMOVING), None)
    for record in found.adopted:
        await _adopt(record, layout=layout, driver=driver, tokens=tokens, sandboxes=sandboxes)
    _log.info(
        "recovered",
        extra={"adopted": len(found.adopted), "removed": len(found.unfinished) + len(found.unreadable)},
    )


def _read_journals(layout: Layout) -> _Found:
    layout.sandboxes.mkdir(mode=0o700, exist_ok=True)
    found = _Found([], [], [])
    for directory in sorted(filter(Path.is_dir, layout.sandboxes.iterdir())):
        try:
            record = journal.load(directory)
        except InternalError as error:
            # Its cgroup and slot are found and freed without it; only a rebuilt agent of another version writes such.
            _log.exception(
                "journal cannot be read", extra={"sandbox_id": directory.name, "reason": error.message}
            )
            record = None
        if record is None:
            found.unreadable.append(directory.name)
        elif record.state in (State.RUNNING, State.LOST):
            found.adopted.append(record)
        else:
            found.unfinished.append(record)
    return found


async def _adopt(
    record: Record, *, layout: Layout, driver: VmDriver, tokens: Tokens, sandboxes: Sandboxes
) -> None:
    directory = layout.sandbox(record.spec.sandbox_id)
    vm = None
    if record.state is State.RUNNING and record.process is not None:
        vm = await driver.adopt(VmHandle(record.process, directory))
    if vm is None:
        if record.state is State.RUNNING:
            record = record.moved(State.LOST, reason=LOST_REASON)
            with suppress(StorageFull):  # found out again at the next start
                journal.save(directory, record)
        sandboxes.adopt(record, None)
        return
    assert record.slot is not None, "a running sandbox has a slot"
    address = str(layout.block.address(record.slot))
    guest = GuestConnection(address, tokens.of(str(record.spec.sandbox_id)))
    sandboxes.adopt(record, RunningSandbox(vm, address, guest, record.started_at))
