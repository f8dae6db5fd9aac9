"""Who owns what: the running agent says it, or, when none runs, the journals of VMs that still live."""

from __future__ import annotations

import fcntl
import os
from dataclasses import dataclass
from typing import Final

import pyqwest
from connectrpc.errors import ConnectError

from wrenn.agent.doctor.machine import Check
from wrenn.agent.layout import Layout
from wrenn.agent.sandboxes import journal
from wrenn.agent.settings import Settings
from wrenn.base.errors import WrennError
from wrenn.protocol.host import host_pb as pb
from wrenn.protocol.host.host_connect import HostAgentClient

_CALL_TIMEOUT_MS: Final = 5000


@dataclass(frozen=True, slots=True)
class Owners:
    """What must not be called a leftover.

    Attributes:
        complete: False when an agent runs and does not answer: then nothing can be said of anything.
        agent_runs: a running agent answers for drafts of bases and for its own folders.
    """

    sandboxes: frozenset[str]
    slots: frozenset[int]
    agent_runs: bool
    complete: bool
    check: Check


async def find_owners(settings: Settings, layout: Layout) -> Owners:
    """Ask the agent; without one read the journals."""
    if not _agent_runs(layout):
        return _from_journals(layout)
    try:
        return await _from_agent(settings, layout)
    except (ConnectError, OSError) as error:
        check = Check(
            "agent",
            ok=False,
            detail=f"runs and does not answer: {error}",
            hint="Look at its log; restart it.",
        )
        return Owners(frozenset(), frozenset(), agent_runs=True, complete=False, check=check)


def _agent_runs(layout: Layout) -> bool:
    try:
        lock = os.open(layout.lock, os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    else:
        return False
    finally:
        os.close(lock)


async def _from_agent(settings: Settings, layout: Layout) -> Owners:
    transport = pyqwest.HTTPTransport(
        tls_ca_cert=(layout.pki / "ca.pem").read_bytes(),
        tls_cert=(layout.pki / "control.pem").read_bytes(),
        tls_key=(layout.pki / "control.key").read_bytes(),
    )
    client = HostAgentClient(
        f"https://{settings.listen_host}:{settings.listen_port}",
        http_client=pyqwest.Client(transport),
        accept_compression=[],
        send_compression=None,
        timeout_ms=_CALL_TIMEOUT_MS,
    )
    host = await client.get_host(pb.GetHostRequest())
    listed = await client.list_sandboxes(pb.ListSandboxesRequest())
    return Owners(
        sandboxes=frozenset(sandbox.sandbox_id for sandbox in listed.sandboxes),
        slots=frozenset(host.owned_slots),
        agent_runs=True,
        complete=True,
        check=Check(
            "agent",
            ok=True,
            detail=f"runs, {len(listed.sandboxes)} sandboxes, {host.vmm}, {host.accelerator}",
        ),
    )


def _from_journals(layout: Layout) -> Owners:
    sandboxes: set[str] = set()
    slots: set[int] = set()
    directories = layout.sandboxes.iterdir() if layout.sandboxes.is_dir() else ()
    for directory in directories:
        try:
            record = journal.load(directory)
        except WrennError:
            continue
        if record is not None and record.process is not None and record.process.is_alive():
            sandboxes.add(directory.name)
            if record.slot is not None:
                slots.add(record.slot)
    check = Check("agent", ok=True, detail=f"not running; {len(sandboxes)} sandboxes live without it")
    return Owners(frozenset(sandboxes), frozenset(slots), agent_runs=False, complete=True, check=check)
