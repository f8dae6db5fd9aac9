"""Writes the content of a disk into a raw image.

A compromised VMM may have written the layers, and their headers may name any file, so no program of the host reads them: a
QEMU does that, confined as one that runs a guest, without network and machine, and with nothing but these files' descriptors.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import socket
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, Final

from wrenn.base.errors import AgentFailure, StorageFull
from wrenn.base.undo import Undo
from wrenn.linux import threads
from wrenn.linux.files import translated
from wrenn.linux.private_root import PrivateRoot
from wrenn.linux.process import ProcessRef, kill_and_wait
from wrenn.linux.spawn import spawn_confined
from wrenn.storage.errors import DamagedSnapshot
from wrenn.vm.driver import FlattenRequest
from wrenn.vm.qemu.command_line import FLATTENED, IMAGE, build_flattening
from wrenn.vm.qemu.disks import Qcow2Disks
from wrenn.vm.qemu.opened import Opened
from wrenn.vm.qemu.qmp import Qmp, QmpError

_JOB: Final = "flatten"
_LOG_NAME: Final = "flatten.log"
_LOG_TAIL_B: Final = 2000
_POLL_S: Final = 0.05
_KILL_TIMEOUT_S: Final = 10.0


async def flatten(disks: Qcow2Disks, request: FlattenRequest, root: PrivateRoot) -> None:
    """Implement `Driver.flatten`."""
    log = request.image.parent / _LOG_NAME
    async with Undo() as undo:
        connection, process = await _start(disks, request, root, log)
        undo.push("close connection", partial(asyncio.to_thread, connection.close))
        # This runs on success too: the job is done, and what was written is in the page cache.
        undo.push("end qemu", partial(kill_and_wait, process, timeout_s=_KILL_TIMEOUT_S))
        try:
            await _mirror(await Qmp.negotiated(connection), request.on_progress)
        except QmpError as error:
            context = {**error.context, "log": _tail(log)}
            raise DamagedSnapshot("The disk cannot be read: it is damaged.", context=context) from error
    # The program has ended: nobody changes the file any more.
    if request.image.stat().st_size != request.size_b:
        raise DamagedSnapshot(
            "The disk cannot be read: it is damaged.", context={"reason": "size of the image"}
        )


async def _start(
    disks: Qcow2Disks, request: FlattenRequest, root: PrivateRoot, log: Path
) -> tuple[socket.socket, ProcessRef]:
    """Start the program; return our end of its control socket, and the process."""
    with contextlib.ExitStack() as on_failure, Opened() as opened:
        connection, theirs = opened.socket_pair()
        on_failure.callback(connection.close)
        layers = tuple(opened.open(path, os.O_RDONLY) for path in disks.files_of(request.disk))
        image = opened.open(request.image, os.O_RDWR | os.O_CREAT | os.O_EXCL)
        try:
            os.ftruncate(image, request.size_b)
        except OSError as error:
            raise translated(error, doing="create the image") from error
        spawning = partial(
            spawn_confined,
            build_flattening(qmp=theirs, layers=layers, image=image),
            root=root,
            confinement=request.confinement,
            pass_fds=tuple(opened.fds),
            log=log,
        )
        process = await threads.run_to_end(spawning, drop=ProcessRef.kill_and_reap)
        on_failure.pop_all()
    return connection, process


async def _mirror(qmp: Qmp, on_progress: Callable[[int, int], None]) -> None:
    await qmp.execute(
        "blockdev-mirror",
        {"job-id": _JOB, "device": FLATTENED, "target": IMAGE, "sync": "full", "auto-dismiss": False},
    )
    completing = False
    while True:
        job = await _job(qmp)
        if job["status"] == "ready" and not completing:
            completing = True
            await qmp.execute("job-complete", {"id": _JOB})
        elif job["status"] == "concluded":
            break
        on_progress(_bytes(job.get("current-progress")), _bytes(job.get("total-progress")))
        await asyncio.sleep(_POLL_S)
    if "error" in job:
        reason = str(job["error"])
        if os.strerror(errno.ENOSPC) in reason:
            raise StorageFull("The disk of the host is full: the image could not be written.")
        raise DamagedSnapshot("The disk cannot be read: it is damaged.", context={"reason": reason})


async def _job(qmp: Qmp) -> dict[str, Any]:
    """Return the job as QEMU describes it, which is not trusted."""
    match await qmp.execute("query-jobs"):
        case [{"status": str(), **rest} as job] if rest.get("id") == _JOB:
            return job
        case other:
            raise AgentFailure("The disk was not copied.", context={"jobs": str(other)[:_LOG_TAIL_B]})


def _bytes(value: object) -> int:
    return value if isinstance(value, int) and 0 <= value < 1 << 63 else 0


def _tail(log: Path) -> str:
    try:
        with log.open("rb") as file:
            file.seek(max(0, os.fstat(file.fileno()).st_size - _LOG_TAIL_B))
            return file.read(_LOG_TAIL_B).decode(errors="replace")
    except OSError:
        return ""
