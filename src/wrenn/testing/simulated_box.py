"""What a simulated host has: folders that stand for sandboxes, and the switches of what goes wrong."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import stat
from dataclasses import dataclass, field
from pathlib import Path

from wrenn.base.errors import NotFound, WrennError
from wrenn.base.units import GIB
from wrenn.protocol.host import host_pb as pb


@dataclass(slots=True)
class Switches:
    """What goes wrong.

    Attributes:
        fail: error by the name of a call, e.g. `ensure_sandbox`; raised before it has any effect.
        fail_after: the same, from the call on that comes after so many.
        lose_answer: names of calls that are carried out and whose answer is then lost.
        hold: names of calls that wait until the event is set.
        memory_b, sandbox_limit: the machine's size.
        templates: its images.
        snapshot_b: what each snapshot takes.
    """

    fail: dict[str, WrennError] = field(default_factory=dict[str, WrennError])
    fail_after: dict[str, tuple[int, WrennError]] = field(default_factory=dict[str, tuple[int, WrennError]])
    lose_answer: set[str] = field(default_factory=set[str])
    hold: dict[str, asyncio.Event] = field(default_factory=dict[str, asyncio.Event])
    memory_b: int = 64 * GIB
    sandbox_limit: int = 4094
    templates: list[str] = field(default_factory=lambda: ["minimal"])
    snapshot_b: int = 4096


@dataclass(slots=True)
class Box:
    """A sandbox: a folder of this machine."""

    spec: pb.SandboxSpec
    root: Path
    started_at: float
    last_active_at: float
    state: pb.SandboxState = pb.SandboxState.RUNNING
    reason: str = ""
    calls_open: int = 0
    processes: dict[int, tuple[pb.Process, asyncio.subprocess.Process]] = field(
        default_factory=dict[int, tuple[pb.Process, asyncio.subprocess.Process]]
    )


def signal_all(box: Box, number: signal.Signals) -> None:
    """To all processes that it has in the background."""
    for pid, (_, process) in box.processes.items():
        if process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(pid, number)


def sandbox_answer(box: Box) -> pb.Sandbox:
    """The sandbox as its host tells it."""
    return pb.Sandbox(
        sandbox_id=box.spec.sandbox_id,
        state=box.state,
        reason=box.reason,
        host_ip="10.11.0.2",
        template=box.spec.template,
        started_at_unix=box.started_at,
        last_active_at_unix=box.last_active_at,
        metadata={"agent_version": "simulated"},
    )


def file_entry(box: Box, path: Path) -> pb.FileEntry:
    """A path below the folder, as the guest would tell it.

    Raises:
        NotFound: there is nothing.
    """
    try:
        found = path.lstat()
    except FileNotFoundError as error:
        raise NotFound(f"/{path.relative_to(box.root)}: no such file") from error
    kind = pb.FileType.UNSPECIFIED
    if stat.S_ISLNK(found.st_mode):
        kind = pb.FileType.SYMLINK
    elif stat.S_ISDIR(found.st_mode):
        kind = pb.FileType.DIRECTORY
    elif stat.S_ISREG(found.st_mode):
        kind = pb.FileType.FILE
    return pb.FileEntry(
        name=path.name,
        type=kind,
        path=f"/{path.relative_to(box.root)}",
        size_b=found.st_size,
        mode=stat.S_IMODE(found.st_mode),
        permissions=stat.filemode(found.st_mode),
        owner="root",
        group="root",
        modified_at_unix=int(found.st_mtime),
        symlink_target=str(path.readlink()) if kind == pb.FileType.SYMLINK else None,
    )
