"""Starts a confined process that outlives us.

A new thread enters the new namespaces and changes its user, so that the process is created inside them, as
process 1 of its pid namespace and as our child: no helper process is needed, and its pid on the host is
known. It starts as a shell that waits for a line on its standard input. Meanwhile the process is put
into its cgroups, gets its own descriptors below `/proc/self/fd`, and the shell is removed from its root. If
we die before that, the shell reads the end of the file and exits.
"""

from __future__ import annotations

import contextlib
import math
import os
import resource
import signal
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from wrenn.linux import seccomp, syscalls
from wrenn.linux.command import CommandError
from wrenn.linux.private_root import OWN_DESCRIPTORS, PrivateRoot
from wrenn.linux.process import ProcessRef
from wrenn.linux.threads import start_in_own_thread

_WAIT_AND_EXEC: Final = (
    'ulimit -c 0; ulimit -n 1024; ulimit -f "$1"; shift; trap "" XFSZ; read -r gate || exit 125; exec "$@"'
)
"""A write beyond the file size limit fails instead of terminating the process."""
_FILE_BLOCK_B: Final = 512
"""Unit in which a shell counts file sizes."""
_FILE_LIMIT: Final = "Max file size"
"""Start of the line with the limit in /proc/PID/limits; its soft and hard values follow."""
_HOST_NAME: Final = b"vmm"
_OOM_SCORE: Final = 500
"""If the machine runs out of memory, a VMM is killed rather than the agent or the database (-1000 to 1000)."""
_DESCRIPTORS_MOUNT: Final = (
    syscalls.MS_REMOUNT
    | syscalls.MS_BIND
    | syscalls.MS_RDONLY
    | syscalls.MS_NOSUID
    | syscalls.MS_NODEV
    | syscalls.MS_NOEXEC
)
_NAMESPACES: Final = (
    syscalls.CLONE_FS  # otherwise the thread could not change its mount namespace
    | syscalls.CLONE_NEWNET
    | syscalls.CLONE_NEWIPC
    | syscalls.CLONE_NEWUTS
    | syscalls.CLONE_NEWPID
)


@dataclass(frozen=True, slots=True)
class Confinement:
    """Credentials and limits of the process.

    Attributes:
        uid: user and group id; no two VMMs share one, so that none can signal or trace another.
        cgroup_procs: `cgroup.procs` files of the groups that it joins before it runs.
        file_size_b: file size limit (RLIMIT_FSIZE) in bytes; 0: no limit.
        groups: supplementary groups: those of devices that it must open itself.
    """

    uid: int
    cgroup_procs: Sequence[Path]
    groups: tuple[int, ...] = ()
    file_size_b: int = 0


def spawn_confined(
    argv: Sequence[str], *, root: PrivateRoot, confinement: Confinement, pass_fds: Sequence[int], log: Path
) -> ProcessRef:
    """Start `argv` (absolute program path first) in its own session; output goes to `log`.

    Its root file system is a copy of `root`. It has new mount, pid, network, IPC and UTS namespaces, no
    capabilities, and `no_new_privs`. Returns at once: the program may still fail afterwards.

    Raises:
        CommandError: it could not be started.
    """
    name = Path(argv[0]).name
    with contextlib.ExitStack() as opened:
        log_fd = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        opened.callback(os.close, log_fd)
        gate, opener = os.pipe2(os.O_CLOEXEC)
        opened.callback(os.close, gate)
        # Closed on every path: a shell that still waits exits then.
        opened.callback(os.close, opener)
        start = _ConfinedStart(argv, root, confinement, pass_fds, gate, log_fd)
        try:
            pid = start_in_own_thread(start.run).result()
        except OSError as error:
            raise CommandError(f"{name} could not be started.", context={"argv": list(argv)}) from error
        try:
            reference = ProcessRef.of(pid)
            if reference is None:
                raise ProcessLookupError
            start_in_own_thread(lambda: _finish_root(pid, root)).result()
            apply_limits(pid, confinement)
            os.write(opener, b"\n")
        except OSError as error:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
            raise CommandError(
                f"{name} ended at once.", context={"argv": list(argv), "log": str(log)}
            ) from error
        return reference


def raise_file_limit(pid: int, size_b: int) -> bool:
    """Raise the file size limit of the process to `size_b`; return whether it has it now. True for a process that has ended.

    Raising a hard limit needs CAP_SYS_RESOURCE, which root lacks in some containers.
    """
    try:
        resource.prlimit(pid, resource.RLIMIT_FSIZE, (size_b, size_b))
    except PermissionError:
        return file_limit_of(pid) >= size_b
    except ProcessLookupError:
        pass
    return True


def file_limit_of(pid: int) -> float:
    """Return the file size limit of the process; infinity for one that has ended."""
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
        for line in Path(f"/proc/{pid}/limits").read_text().splitlines():
            if line.startswith(_FILE_LIMIT):
                hard = line.split()[4]
                return math.inf if hard == "unlimited" else int(hard)
    return math.inf


def apply_limits(pid: int, confinement: Confinement) -> None:
    """Put a process into its cgroups, and let it be the first that the kernel kills when memory is short."""
    for procs in confinement.cgroup_procs:
        procs.write_text(str(pid))
    Path(f"/proc/{pid}/oom_score_adj").write_text(str(_OOM_SCORE))


@dataclass(frozen=True, slots=True)
class _ConfinedStart:
    """The work of the thread that enters the namespaces and starts the process."""

    argv: Sequence[str]
    root: PrivateRoot
    confinement: Confinement
    pass_fds: Sequence[int]
    gate: int
    log: int

    def run(self) -> int:
        """Start the process and return its pid. It waits for a line on its standard input."""
        # So that only the intended descriptors are inherited.
        syscalls.copy_descriptors()
        needed = {0, 1, 2, self.gate, self.log, self.root.namespace, *self.pass_fds}
        syscalls.close_all_but(needed)
        syscalls.unshare(_NAMESPACES)
        for descriptor in self.pass_fds:
            os.set_inheritable(descriptor, True)  # noqa: FBT003 - the standard library's signature
        syscalls.set_host_name(_HOST_NAME)
        uid = self.confinement.uid
        syscalls.drop_privileges_at_exec(uid, uid, self.confinement.groups)
        syscalls.setns(self.root.namespace, syscalls.CLONE_NEWNS)
        syscalls.unshare(syscalls.CLONE_NEWNS)
        seccomp.deny_unused_calls()
        child = self._start_shell()
        child.returncode = 0  # ours to reap through ProcessRef, not Popen's: keeps its finalizer from warning
        return child.pid

    def _start_shell(self) -> subprocess.Popen[bytes]:
        file_size_b = self.confinement.file_size_b
        file_blocks = str(-(-file_size_b // _FILE_BLOCK_B)) if file_size_b else "unlimited"
        # Not asyncio's: its child watcher would reap the process, and we wait by pidfd also for adopted
        # processes. Without `user=` Python starts it by vfork: no copy of our memory ever belongs to the new
        # user.
        return subprocess.Popen(
            [str(self.root.shell), "-c", _WAIT_AND_EXEC, "spawn", file_blocks, *self.argv],
            stdin=self.gate,
            stdout=self.log,
            stderr=self.log,
            close_fds=False,  # Python may look for them below /proc
            env={"LANG": "C.UTF-8", "LD_LIBRARY_PATH": self.root.library_path},
            start_new_session=True,
        )


def _finish_root(pid: int, root: PrivateRoot) -> None:
    """Let the process find its own descriptors by path, and remove the shell. Call in a new thread."""
    syscalls.unshare(syscalls.CLONE_FS)
    own = os.open(f"/proc/{pid}/ns/mnt", os.O_RDONLY | os.O_CLOEXEC)
    try:
        descriptors = syscalls.clone_mount(f"/proc/{pid}/fd")
        try:
            syscalls.setns(own, syscalls.CLONE_NEWNS)
            syscalls.attach_mount(descriptors, OWN_DESCRIPTORS)
        finally:
            os.close(descriptors)
    finally:
        os.close(own)
    syscalls.mount(b"none", OWN_DESCRIPTORS, _DESCRIPTORS_MOUNT)
    syscalls.unmount(root.shell)
