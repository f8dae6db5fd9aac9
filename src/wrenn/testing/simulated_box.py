"""What a simulated host has: folders that stand for sandboxes, and the switches of what goes wrong."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import stat
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from wrenn.base.errors import NotFound, PortClosed, WrennError
from wrenn.base.file_names import name_to_text
from wrenn.base.units import GIB
from wrenn.guest import GuestPorts, Processes
from wrenn.protocol.host import host_pb as pb
from wrenn.testing.local_processes import LocalProcess

_KINDS: Final = {
    stat.S_IFDIR: pb.FileKind.DIRECTORY,
    stat.S_IFLNK: pb.FileKind.SYMLINK,
    stat.S_IFSOCK: pb.FileKind.SOCKET,
    stat.S_IFIFO: pb.FileKind.FIFO,
    stat.S_IFCHR: pb.FileKind.CHAR_DEVICE,
    stat.S_IFBLK: pb.FileKind.BLOCK_DEVICE,
}


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
        is_old: its agent is one of before commands were streamed.
    """

    fail: dict[str, WrennError] = field(default_factory=dict[str, WrennError])
    fail_after: dict[str, tuple[int, WrennError]] = field(default_factory=dict[str, tuple[int, WrennError]])
    lose_answer: set[str] = field(default_factory=set[str])
    hold: dict[str, asyncio.Event] = field(default_factory=dict[str, asyncio.Event])
    memory_b: int = 64 * GIB
    sandbox_limit: int = 4094
    templates: list[str] = field(default_factory=lambda: ["minimal"])
    snapshot_b: int = 4096
    is_old: bool = False


class BoxPorts(GuestPorts):
    """Ports of this machine."""

    async def join_loopback(self, port: int, protocol: asyncio.Protocol) -> asyncio.Transport:  # noqa: ARG002
        """There is no other address than loopback."""
        raise PortClosed(f"Nothing listens on port {port} in the sandbox.")


@dataclass(slots=True)
class Box:
    """A sandbox: a folder of this machine."""

    spec: pb.SandboxSpec
    root: Path
    started_at: float
    last_active_at: float
    network: pb.NetworkPolicy | None = None
    state: pb.SandboxState = pb.SandboxState.RUNNING
    reason: str = ""
    calls_open: int = 0
    watches: list[asyncio.Queue[dict[str, str]]] = field(default_factory=list[asyncio.Queue[dict[str, str]]])
    processes: dict[int, LocalProcess] = field(default_factory=dict[int, LocalProcess])
    ports: GuestPorts = field(default_factory=lambda: BoxPorts("127.0.0.1", {}))
    passages: set[asyncio.Task[object]] = field(default_factory=set[asyncio.Task[object]])


@dataclass(slots=True, eq=False)
class BoxPassage:
    """A caller's connection with a program of this machine, which stands for one in the guest."""

    box: Box
    processes: Processes
    _is_waiting: bool = True

    def __post_init__(self) -> None:
        self.mark_active()
        self.box.calls_open += 1

    @property
    def ports(self) -> GuestPorts:
        """Those of this machine."""
        return self.box.ports

    def mark_active(self) -> None:
        """The sandbox is in use now."""
        self.box.last_active_at = time.time()

    def mark_open(self, *, is_finite: bool) -> None:  # noqa: ARG002 - a pause waits for nothing here
        """Only what moves is activity from here on."""
        self.end()

    def end(self) -> None:
        """It is not waited for any more. Twice is fine."""
        self.box.calls_open -= self._is_waiting
        self._is_waiting = False


async def cut_passages(box: Box) -> None:
    """End all passages, as a pause does."""
    for task in box.passages:
        task.cancel()
    await box.ports.close()


def signal_all(box: Box, number: signal.Signals) -> None:
    """To all processes that it has in the background."""
    for process in box.processes.values():
        with contextlib.suppress(NotFound):
            process.signal(number)


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
        network_revision=box.network.revision if box.network else 0,
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
    kind, exact = pb.FileType.UNSPECIFIED, _KINDS.get(stat.S_IFMT(found.st_mode), pb.FileKind.FILE)
    if stat.S_ISLNK(found.st_mode):
        kind = pb.FileType.SYMLINK
    elif stat.S_ISDIR(found.st_mode):
        kind = pb.FileType.DIRECTORY
    elif stat.S_ISREG(found.st_mode):
        kind = pb.FileType.FILE
    return pb.FileEntry(
        name=_text(path.name),
        type=kind,
        path=_text(f"/{path.relative_to(box.root)}"),
        size_b=found.st_size,
        mode=stat.S_IMODE(found.st_mode),
        permissions=stat.filemode(found.st_mode),
        owner="root",
        group="root",
        modified_at_unix=int(found.st_mtime),
        symlink_target=_text(path.readlink()) if kind == pb.FileType.SYMLINK else None,
        kind=exact,
        is_broken=kind == pb.FileType.SYMLINK and not path.exists(),
    )


def _text(name: str | Path) -> str:
    return name_to_text(os.fsencode(name))
