"""Starts a program through Firecracker's jailer, as a process that outlives us.

The jailer makes the program's root folder, with the devices that it needs, enters the network namespace, becomes the VMM's user
and executes the program: the process stays the same. It is process 1 of a pid namespace that we enter before, instead of
the jailer's `--new-pid-ns`, so that it is our child and its pid is known without a file that it could change. As in `spawn.py`, a
shell waits until the process is in its cgroups; if we die before that, it ends.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from wrenn.linux import syscalls
from wrenn.linux.command import CommandError
from wrenn.linux.namespaces import namespace_path
from wrenn.linux.process import ProcessRef
from wrenn.linux.spawn import Confinement, apply_limits
from wrenn.linux.threads import start_in_own_thread

_ID: Final = "vm"
"""The jailer's name for it. It need not be unique, as every machine has its own folder."""
_WAIT_AND_EXEC: Final = 'ulimit -c 0; read -r gate || exit 125; exec "$@" </dev/null'
_HOST_NAME: Final = b"vmm"
_OPEN_FILES: Final = 1024


@dataclass(frozen=True, slots=True)
class JailedStart:
    """What is started, and where.

    Attributes:
        jailer: path of the jailer.
        program: path of the program, of which the jailer makes a copy in the root folder.
        arguments: of the program.
        folder: in it the jailer makes the root folder.
        network: name of the network namespace.
        log: file to which the output of both is appended.
    """

    jailer: Path
    program: Path
    arguments: Sequence[str]
    folder: Path
    network: str
    confinement: Confinement
    log: Path

    @property
    def root(self) -> Path:
        """The root folder. What is in it before the start is there for the program."""
        return jail_root(self.folder, self.program)

    def run(self) -> ProcessRef:
        """Start it. Blocking. Returns at once: the jailer or the program may still fail afterwards.

        Raises:
            CommandError: it could not be started.
        """
        name = self.jailer.name
        with contextlib.ExitStack() as opened:
            log = os.open(self.log, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
            opened.callback(os.close, log)
            gate, opener = os.pipe2(os.O_CLOEXEC)
            opened.callback(os.close, gate)
            # Closed on every path: a shell that still waits exits then.
            opened.callback(os.close, opener)
            try:
                pid = start_in_own_thread(lambda: self._start_shell(gate, log)).result()
            except OSError as error:
                raise CommandError(f"{name} could not be started.") from error
            try:
                reference = ProcessRef.of(pid)
                if reference is None:
                    raise ProcessLookupError
                apply_limits(pid, self.confinement)
                os.write(opener, b"\n")
            except OSError as error:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, 9)
                os.waitpid(pid, 0)
                raise CommandError(f"{name} ended at once.", context={"log": str(self.log)}) from error
            return reference

    def _start_shell(self, gate: int, log: int) -> int:
        # So that only the intended descriptors are inherited.
        syscalls.copy_descriptors()
        syscalls.close_all_but({0, 1, 2, gate, log})
        syscalls.unshare(syscalls.CLONE_NEWIPC | syscalls.CLONE_NEWUTS | syscalls.CLONE_NEWPID)
        syscalls.set_host_name(_HOST_NAME)
        child = subprocess.Popen(
            ["/bin/sh", "-c", _WAIT_AND_EXEC, "jailer", *self._command()],
            stdin=gate,
            stdout=log,
            stderr=log,
            close_fds=False,  # only the intended ones are left
            env={},
            start_new_session=True,
        )
        child.returncode = 0  # ours to reap through ProcessRef, not Popen's: keeps its finalizer from warning
        return child.pid

    def _command(self) -> list[str]:
        uid = str(self.confinement.uid)
        # Neither `--cgroup` nor `--parent-cgroup`: it stays in the groups that it is in.
        limits = [f"no-file={_OPEN_FILES}"]
        if self.confinement.file_size_b:
            limits.append(f"fsize={self.confinement.file_size_b}")
        return [
            str(self.jailer), "--id", _ID, "--exec-file", str(self.program), "--uid", uid, "--gid", uid,
            "--chroot-base-dir", str(self.folder), "--netns", str(namespace_path(self.network)),
            "--cgroup-version", "2",
            *(part for limit in limits for part in ("--resource-limit", limit)),
            "--", *self.arguments,
        ]  # fmt: skip


def jail_root(folder: Path, program: Path) -> Path:
    """Return the root folder that the jailer makes in `folder` for this program."""
    return folder / program.name / _ID / "root"
