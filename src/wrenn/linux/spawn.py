"""Start a confined process that outlives us.

The chain is `sh` (joins the cgroups, sets limits) → `unshare` (no network, own IPC) → `setpriv` (unprivileged user, no
capabilities, no new privileges) → the program; every link execs the next, so the pid is the program's from the start.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from wrenn.linux.command import CommandError
from wrenn.linux.process import ProcessRef

_JOIN_AND_EXEC: Final = 'ulimit -c 0; ulimit -n 1024; while [ "$1" != -- ]; do echo 0 > "$1" || exit 125; shift; done; shift; exec "$@"'


@dataclass(frozen=True, slots=True)
class Confinement:
    """What the process may be and take.

    Attributes:
        uid: user and group it runs as; no two VMMs share one, so that none may signal or trace another.
        cgroup_procs: `cgroup.procs` files of the groups it joins before it runs.
        groups: further groups of its user: those of devices that it must open itself.
    """

    uid: int
    cgroup_procs: Sequence[Path]
    groups: tuple[int, ...] = ()


def spawn_confined(
    argv: Sequence[str], *, confinement: Confinement, pass_fds: Sequence[int], log: Path
) -> ProcessRef:
    """Start `argv` (absolute program path first) in its own session; output goes to `log`.

    Returns at once: that the program runs does not mean that it did not fail.

    Raises:
        CommandError: it could not be started.
    """
    groups = f"--groups={','.join(map(str, confinement.groups))}" if confinement.groups else "--clear-groups"
    chain = [
        "/bin/sh", "-c", _JOIN_AND_EXEC, "spawn", *map(str, confinement.cgroup_procs), "--",
        "unshare", "--net", "--ipc", "--",
        "setpriv", f"--reuid={confinement.uid}", f"--regid={confinement.uid}", groups,
        "--no-new-privs", "--bounding-set=-all", "--inh-caps=-all", "--",
        *argv,
    ]  # fmt: skip
    log_fd = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    try:
        # Not asyncio's: its child watcher would reap the process, and we wait by pidfd also for those we adopted.
        child = subprocess.Popen(
            chain,
            stdin=subprocess.DEVNULL,
            stdout=log_fd,
            stderr=log_fd,
            pass_fds=pass_fds,
            env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LANG": "C.UTF-8"},
            cwd="/",
            start_new_session=True,
        )
    except OSError as error:
        raise CommandError(
            f"{Path(argv[0]).name} could not be started.", context={"argv": list(argv)}
        ) from error
    finally:
        os.close(log_fd)
    child.returncode = 0  # ours to reap through ProcessRef, not Popen's: keeps its finalizer from warning
    reference = ProcessRef.of(child.pid)
    if reference is None:
        os.waitpid(child.pid, 0)
        raise CommandError(
            f"{Path(argv[0]).name} ended at once.", context={"argv": list(argv), "log": str(log)}
        )
    return reference
