"""Runs a program that handles hostile input as root of a user namespace, where it can set owners, and as nobody outside.

Its user ids 0 to 65,535 are a range of ids that nothing else on the machine has. It sees a root file system of its own
(`private_root`) and one writable folder, `/work`; it has its own process, IPC and host name namespaces, and a network
namespace that the caller names, or an empty one. It cannot mount anything there, as its mount namespace belongs to the machine's root;
it can create further user namespaces, as there is no filter of system calls.
It ends with its deadline or the caller's cancellation.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import subprocess
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import IO, Final

from wrenn.base.undo import Undo
from wrenn.linux import syscalls, threads
from wrenn.linux.command import CommandError
from wrenn.linux.private_root import SHELL, PrivateRoot
from wrenn.linux.process import ProcessRef, kill_and_wait
from wrenn.linux.threads import start_in_own_thread

WORK: Final = Path("/work")
"""The writable folder, as the program sees it."""
ID_COUNT: Final = 65_536
UNSHARE: Final = Path("/usr/bin/unshare")
SETPRIV: Final = Path("/usr/bin/setpriv")
PROGRAMS: Final = (UNSHARE, SETPRIV)
"""Programs that the root file system must have besides the one that is run."""
_CAPABILITIES: Final = "-all,+chown,+dac_override,+fowner,+fsetid,+setgid,+setuid,+setfcap"
"""What unpacking a file system needs. They are those of the user namespace: outside they are worth nothing."""
_IN_NAMESPACE: Final = 'read -r gate || exit 125; exec "$@"'
_SCRIPT: Final = (
    'ulimit -c 0; ulimit -n 4096; ulimit -f "$1"; shift; trap "" XFSZ; read -r gate || exit 125; exec "$@"'
)
_FILE_BLOCK_B: Final = 512
_NAMESPACE_TIMEOUT_S: Final = 10.0
_POLL_S: Final = 0.002
_KILL_TIMEOUT_S: Final = 10.0
_OOM_SCORE: Final = 800
_STDERR_B: Final = 4000
_HOST_NAME: Final = b"jail"
_WORK_MOUNT: Final = syscalls.MS_REMOUNT | syscalls.MS_BIND | syscalls.MS_NOSUID | syscalls.MS_NODEV


@dataclass(frozen=True, slots=True)
class Jail:
    """Where programs run.

    Attributes:
        root: has the programs, `PROGRAMS`, and the folder `WORK`.
        work: the writable folder on the host. It and what is in it belong to the ids of the range.
        first_id: first of the `ID_COUNT` user and group ids of the range: the one that is root inside.
        cgroup_procs: `cgroup.procs` files of the groups that each program joins.
        file_size_b: the largest file that a program may write.
    """

    root: PrivateRoot
    work: Path
    first_id: int
    cgroup_procs: Sequence[Path]
    file_size_b: int
    environment: Mapping[str, str] = field(default_factory=dict[str, str])

    async def run(
        self, argv: Sequence[str], *, timeout_s: float, network: str = "", output_limit_b: int = 1 << 20
    ) -> bytes:
        """Run a program to its end and return what it wrote to standard output, up to the limit.

        Args:
            argv: its absolute path in the root, and its arguments.
            timeout_s: its deadline.
            network: name of a network namespace; empty: one without any network.
            output_limit_b: further output is lost.

        Raises:
            CommandError: it could not be started, failed, or did not end in time; its context has the end of standard error.
        """
        name = Path(argv[0]).name
        # Beside the work folder: they count for the limits of its disk.
        beside = self.work.parent
        with tempfile.TemporaryFile(dir=beside) as stdout, tempfile.TemporaryFile(dir=beside) as stderr:
            async with Undo() as undo:
                start = _Start(self, argv, network, stdout, stderr)
                process = await threads.run_to_end(start.run, drop=ProcessRef.kill_and_reap)
                undo.push("kill", partial(kill_and_wait, process, timeout_s=_KILL_TIMEOUT_S))
                try:
                    async with asyncio.timeout(timeout_s):
                        code = await process.wait_exit()
                except TimeoutError as error:
                    raise CommandError(
                        f"{name} did not end within {timeout_s:.0f} s.", context=_context(stderr, None)
                    ) from error
            if code != 0:
                raise CommandError(f"{name} failed.", context=_context(stderr, code))
            stdout.seek(0)
            return stdout.read(output_limit_b)


def _context(stderr: IO[bytes], code: int | None) -> dict[str, object]:
    size_b = os.fstat(stderr.fileno()).st_size
    stderr.seek(max(0, size_b - _STDERR_B))
    return {"exit_code": code, "stderr": stderr.read(_STDERR_B).decode(errors="replace")}


@dataclass(frozen=True, slots=True)
class _Start:
    """Starts the program."""

    jail: Jail
    argv: Sequence[str]
    network: str
    stdout: IO[bytes]
    stderr: IO[bytes]

    def run(self) -> ProcessRef:
        """Start it and return it. Blocking; if it fails, no process is left."""
        name = Path(self.argv[0]).name
        with contextlib.ExitStack() as opened:
            gate, opener = os.pipe2(os.O_CLOEXEC)
            opened.callback(os.close, gate)
            opened.callback(os.close, opener)
            try:
                pid = start_in_own_thread(partial(self._start_shell, gate)).result()
            except OSError as error:
                raise CommandError(f"{name} could not be started.") from error
            try:
                reference = ProcessRef.of(pid)
                if reference is None:
                    raise ProcessLookupError
                for procs in self.jail.cgroup_procs:
                    procs.write_text(str(pid))
                Path(f"/proc/{pid}/oom_score_adj").write_text(str(_OOM_SCORE))
                os.write(opener, b"\n")
                self._map_ids(pid)
                os.write(opener, b"\n")
            except OSError as error:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, 9)
                os.waitpid(pid, 0)
                raise CommandError(
                    f"{name} could not be started.", context=_context(self.stderr, None)
                ) from error
            return reference

    def _start_shell(self, gate: int) -> int:
        """Start a shell in the new namespaces; it waits for a line. Runs in a thread of its own."""
        jail = self.jail
        work = syscalls.clone_mount(jail.work)
        network = os.open(f"/run/netns/{self.network}", os.O_RDONLY | os.O_CLOEXEC) if self.network else -1
        output = (self.stdout.fileno(), self.stderr.fileno())
        try:
            # So that only the intended descriptors are inherited.
            syscalls.copy_descriptors()
            keep = {0, 1, 2, gate, work, jail.root.namespace, *output}
            syscalls.close_all_but(keep | ({network} if self.network else set()))
            if self.network:
                syscalls.setns(network, syscalls.CLONE_NEWNET)
            else:
                syscalls.unshare(syscalls.CLONE_NEWNET)
            syscalls.unshare(
                syscalls.CLONE_FS | syscalls.CLONE_NEWIPC | syscalls.CLONE_NEWUTS | syscalls.CLONE_NEWPID
            )
            syscalls.set_host_name(_HOST_NAME)
            syscalls.setns(jail.root.namespace, syscalls.CLONE_NEWNS)
            syscalls.unshare(syscalls.CLONE_NEWNS)
            syscalls.attach_mount(work, WORK)
            syscalls.mount(b"none", WORK, _WORK_MOUNT)
            child = subprocess.Popen(
                [
                    str(jail.root.shell), "-c", _SCRIPT, "jail", str(-(-jail.file_size_b // _FILE_BLOCK_B)),
                    str(UNSHARE), "--user", "--keep-caps", str(SHELL), "-c", _IN_NAMESPACE, "jail",
                    str(SETPRIV), "--reuid=0", "--regid=0", "--clear-groups", "--no-new-privs",
                    "--inh-caps=-all", f"--bounding-set={_CAPABILITIES}", "--", *self.argv,
                ],
                stdin=gate,
                stdout=output[0],
                stderr=output[1],
                close_fds=False,  # only the intended ones are left
                cwd=WORK,
                env={"LANG": "C.UTF-8", "LD_LIBRARY_PATH": jail.root.library_path, **jail.environment},
                start_new_session=True,
            )  # fmt: skip
        finally:
            os.close(work)
            if self.network:
                os.close(network)
        child.returncode = 0  # ours to reap through ProcessRef, not Popen's: keeps its finalizer from warning
        return child.pid

    def _map_ids(self, pid: int) -> None:
        """Wait until the process is in its user namespace, and map the ids of that."""
        ours = Path("/proc/self/ns/user").stat().st_ino
        deadline = time.monotonic() + _NAMESPACE_TIMEOUT_S
        while Path(f"/proc/{pid}/ns/user").stat().st_ino == ours:
            if time.monotonic() > deadline:
                raise TimeoutError
            time.sleep(_POLL_S)
        for name in ("uid_map", "gid_map"):
            Path(f"/proc/{pid}/{name}").write_text(f"0 {self.jail.first_id} {ID_COUNT}\n")
