"""Starts the page-fault server of a VM, finds that of a former agent, and ends a VM whose server has ended.

docs/design/pager.md describes the program.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
from collections.abc import Generator
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

from wrenn.base.built_programs import find_built_program
from wrenn.linux.files import write_json
from wrenn.linux.private_root import PrivateRoot, RootFile, build_private_root
from wrenn.linux.process import ProcessRef
from wrenn.linux.spawn import Confinement, spawn_confined

_PROGRAM: Final = "pager"
_USERFAULTFD: Final = Path("/dev/userfaultfd")
"""The jailer makes a node of it in each jail, which the VMM's user may open."""
REFERENCE_NAME: Final = "pager.json"
"""In the machine's folder: which process it is."""


@dataclass(frozen=True, slots=True)
class PagerRequest:
    """Parameters of a server.

    Attributes:
        directory: folder of the machine.
        socket: path at which the VMM will connect; it is made.
        image: descriptor of the memory image, a file that never becomes shorter.
        diff: memory diff of the snapshot over it.
        order: pages to fill before they are needed.
        record: file to which the pages are appended that the VM waits for.
        log: file to which its output is appended.
    """

    directory: Path
    socket: Path
    image: int
    confinement: Confinement
    log: Path
    diff: Path | None = None
    order: Path | None = None
    record: Path | None = None


def find_pager() -> Path | None:
    """Return the program's path: in the package, or in a checkout in which cargo has built it."""
    return find_built_program(_PROGRAM)


def why_no_pager(program: Path | None, *, device: Path = _USERFAULTFD) -> str:
    """Return why no VM of this machine can have this program as its page-fault server; empty if they can."""
    if program is None:
        return "the page-fault server is not built: run `make setup` in the checkout"
    if not device.exists():
        return f"the kernel has no {device}: it needs Linux 6.1 with CONFIG_USERFAULTFD"
    return ""


class PagerStarter:
    """Starts servers. Each has a root file system with nothing but the program."""

    def __init__(self, program: Path, root: PrivateRoot) -> None:
        self._program = program
        self._root = root

    @classmethod
    async def of(cls, program: Path) -> PagerStarter:
        """Prepare the root file system.

        Raises:
            CommandError: the kernel refuses a mount.
        """
        return cls(program, await build_private_root((), files=[RootFile(program)]))

    def start(self, request: PagerRequest) -> ProcessRef:
        """Start a server and write down which process it is. Blocking. The VMM can connect when this returns.

        Raises:
            CommandError: it could not be started. FileNotFoundError: a file is missing.
        """
        with ExitStack() as opened:
            listener = opened.enter_context(_listener(request.socket, request.confinement.uid))
            arguments = {"--socket": listener.fileno(), "--image": request.image}
            for name, path, flags in (
                ("--diff", request.diff, os.O_RDONLY),
                ("--order", request.order, os.O_RDONLY),
                ("--record", request.record, os.O_WRONLY | os.O_APPEND | os.O_CREAT),
            ):
                if path is not None:
                    fd = os.open(path, flags | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
                    opened.callback(os.close, fd)
                    arguments[name] = fd
            argv = [str(self._program)]
            for name, fd in arguments.items():
                argv += [name, str(fd)]
            pager = spawn_confined(
                argv,
                root=self._root,
                confinement=request.confinement,
                pass_fds=tuple(arguments.values()),
                log=request.log,
            )
        try:
            write_json(request.directory / REFERENCE_NAME, asdict(pager), durable=False)
        except BaseException:
            pager.kill_and_reap()
            raise
        return pager

    def close(self) -> None:
        """Close the root file system; servers keep running."""
        self._root.close()


def pager_of(directory: Path) -> ProcessRef | None:
    """Return the server of the machine in this folder, whether it still runs or not; None if it has none."""
    try:
        stored = json.loads((directory / REFERENCE_NAME).read_bytes())
    except FileNotFoundError:
        return None
    return ProcessRef(**stored)


def forget_pager(directory: Path) -> None:
    """Remove what is written down about the server of a former VM of this machine."""
    (directory / REFERENCE_NAME).unlink(missing_ok=True)


async def kill_without_pager(vmm: ProcessRef, pager: ProcessRef) -> None:
    """Wait until the server has ended, and kill its VM, which could wait for its memory for ever. Has no timeout."""
    await pager.wait_exit()
    vmm.kill()


@contextlib.contextmanager
def _listener(path: Path, uid: int) -> Generator[socket.socket]:
    """Listen at a path that only this user may connect to."""
    folder = os.open(path.parent, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC) as listener:
            # The path itself may be longer than the name of a socket.
            short = f"/proc/self/fd/{folder}/{path.name}"
            listener.bind(short)
            Path(short).chmod(0o600)
            os.chown(short, uid, uid)
            listener.listen(1)
            yield listener
    finally:
        os.close(folder)
