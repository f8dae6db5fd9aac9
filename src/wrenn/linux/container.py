"""Runs a process tree in its own folder, without a hypervisor: the substitute for a virtual machine in tests.

Its first process is process 1 of a pid namespace, so that all processes end with it, and has a mount
namespace in which the folder is the root. Nothing else is confined: it has the host's network, and as root
the host's devices. Without root it runs in a user namespace, whose only user is the caller.

The tree is not a child of ours and outlives us: `setsid` and `unshare` of util-linux start it.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final

from wrenn.linux.command import CommandError, run
from wrenn.linux.process import ProcessRef
from wrenn.linux.threads import run_to_end

_START_TIMEOUT_S: Final = 20.0
_STOP_TIMEOUT_S: Final = 5.0
_POLL_S: Final = 0.001
_ALTERNATIVES: Final = "etc/alternatives"
_LINKED: Final = ("bin", "sbin", "lib", "lib32", "lib64", "libx32")
"""Folders that are links into `/usr` if the distribution has merged them; otherwise they are bound as well."""
_FOLDERS: Final = ("dev", "etc", "home", "proc", "root", "run", "tmp", "usr", "var", _ALTERNATIVES)
_ETC: Final = ("ld.so.cache", "profile", "bash.bashrc")
"""Files in the host's `/etc` that its programs need. They are copied, and few, because each layer is a copy
of the folder."""
_PROGRAM: Final = "/run/program"
_ENVIRONMENT: Final = {
    "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    "LANG": "C.UTF-8",
}
_SCRIPT: Final = f"""
set -e
# Before its own /proc is mounted this is the host's, and so is our number in it.
read -r pid rest </proc/self/stat
root=$1 program=$2 read_only=$3
shift 3
mount --make-rprivate /
for name in usr {_ALTERNATIVES} {" ".join(_LINKED)}; do
    [ -d "/$name" ] && ! [ -L "/$name" ] || continue
    mount --rbind "/$name" "$root/$name"
    if [ "$read_only" = yes ]; then mount -o remount,bind,ro "$root/$name"; fi
done
mount --rbind /dev "$root/dev"
mount -t tmpfs shm "$root/dev/shm"
mount -t proc proc "$root/proc" 2>/dev/null || mount --rbind /proc "$root/proc"
mount -t tmpfs -o mode=755 run "$root/run"
: >"$root{_PROGRAM}"
mount --bind "$program" "$root{_PROGRAM}"
echo "$pid"
read -r gate
exec chroot "$root" {_PROGRAM} "$@" </dev/null >&2
"""
_AS_ROOT: Final = ("--mount", "--pid", "--fork", "--kill-child")
_AS_USER: Final = ("--user", "--map-current-user", "--keep-caps", *_AS_ROOT)


@dataclass(frozen=True, slots=True)
class User:
    """A login name in a folder."""

    name: str
    uid: int
    home: str


def users() -> tuple[User, ...]:
    """Return `root` and `user`. Without root both are the caller, the only user."""
    uid = os.geteuid()
    return User("root", uid, "/root"), User("user", uid or 1000, "/home/user")


async def make_root(root: Path) -> None:
    """Create a folder that can be the root of a container: nearly empty, since the host's programs are bound into it.

    Raises:
        CommandError: a file of the host cannot be copied.
    """
    root.mkdir(mode=0o755)
    for name in _FOLDERS:
        (root / name).mkdir(mode=0o755)
    (root / "tmp").chmod(0o1777)
    for name in _LINKED:
        host = Path("/", name)
        if host.is_symlink():
            (root / name).symlink_to(host.readlink())
        elif host.is_dir():
            (root / name).mkdir()
    present = [str(path) for name in _ETC if (path := Path("/etc", name)).exists()]
    await run(["cp", "-a", "--", *present, str(root / "etc")], timeout_s=_START_TIMEOUT_S)
    lines = [f"{u.name}:x:{u.uid}:{u.uid}::{u.home}:/bin/bash\n" for u in users()]
    (root / "etc/passwd").write_text("".join(lines))
    (root / "etc/group").write_text("".join(f"{u.name}:x:{u.uid}:\n" for u in users()))
    (root / "etc/hosts").write_text("127.0.0.1\tlocalhost\n")
    for user in users():
        home = root / user.home.removeprefix("/")
        home.mkdir(mode=0o755, exist_ok=True)
        os.chown(home, user.uid, -1)


async def start_container(
    root: Path, program: Path, arguments: Sequence[str], *, log: Path, on_born: Callable[[ProcessRef], object]
) -> ProcessRef:
    """Start the host's static `program` as process 1 in the folder `root`; its output goes to the file `log`.

    `on_born` is called with the process before the program runs. If it raises, or we die before that, the
    program never runs.

    Raises:
        CommandError: it did not start.
    """
    is_root = os.geteuid() == 0
    with contextlib.ExitStack() as opened:
        log_fd = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        opened.callback(os.close, log_fd)
        gate, opener = os.pipe2(os.O_CLOEXEC)
        opened.callback(os.close, opener)  # a shell that still waits exits then
        reader_fd, writer_fd = os.pipe2(os.O_CLOEXEC)
        opened.callback(os.close, reader_fd)
        argv = [
            "setsid", "--fork", "unshare", *(_AS_ROOT if is_root else _AS_USER),
            "/bin/sh", "-c", _SCRIPT, "sh", str(root), str(program), "yes" if is_root else "no", *arguments,
        ]  # fmt: skip
        try:
            starting = partial(
                subprocess.run,
                argv,
                stdin=gate,
                stdout=writer_fd,
                stderr=log_fd,
                env=_ENVIRONMENT,
                check=True,
            )
            await run_to_end(starting)
        except (OSError, subprocess.CalledProcessError) as error:
            raise CommandError("The container did not start.", context={"argv": argv}) from error
        finally:
            os.close(gate)
            os.close(writer_fd)
        pid = await _read_pid(reader_fd, log)
        process = ProcessRef.of(pid)
        if process is None:
            raise CommandError("The container ended at once.", context={"log": str(log)})
        on_born(process)
        os.write(opener, b"\n")
    return process


async def _read_pid(reader_fd: int, log: Path) -> int:
    reader = asyncio.StreamReader()
    loop = asyncio.get_running_loop()
    transport, _ = await loop.connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(reader), os.fdopen(os.dup(reader_fd), "rb", 0)
    )
    try:
        async with asyncio.timeout(_START_TIMEOUT_S):
            return int(await reader.readline())
    except (TimeoutError, ValueError) as error:
        tail = log.read_bytes()[-1000:].decode(errors="replace")
        raise CommandError("The container did not start.", context={"log": tail}) from error
    finally:
        transport.close()


def _members(process: ProcessRef) -> Iterator[tuple[int, int]]:
    """Yield pid and pidfd of all processes in the pid namespace of a container; a pidfd is valid until the next one is yielded."""
    with contextlib.suppress(OSError):
        namespace = Path(f"/proc/{process.pid}/ns/pid").stat().st_ino
        if not process.is_alive():
            return
        for entry in Path("/proc").iterdir():
            if not entry.name.isdigit():
                continue
            with contextlib.suppress(OSError):
                pidfd = os.pidfd_open(int(entry.name))
                try:
                    # After opening: from here on the descriptor cannot refer to another process.
                    if (entry / "ns/pid").stat().st_ino == namespace:
                        yield int(entry.name), pidfd
                finally:
                    os.close(pidfd)


def _signal_all(process: ProcessRef, number: signal.Signals) -> None:
    for _, pidfd in _members(process):
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(pidfd, number)


def is_stopped(process: ProcessRef) -> bool:
    """Whether the first process of a container is stopped."""
    return _state(process.pid) in "Tt"


def _state(pid: int) -> str:
    """Return the state letter of a process, or that of a dead one if it does not exist."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return "X"
    return stat[stat.rindex(")") + 2]


def stop_container(process: ProcessRef) -> None:
    """Stop all processes of a container with SIGSTOP. Blocking and idempotent; does nothing if it has ended.

    Raises:
        TimeoutError: some are still running.
    """
    deadline = time.monotonic() + _STOP_TIMEOUT_S
    # Repeatedly, since processes that are not stopped yet may start others.
    while any(_state(pid) not in "TtZX" for pid, _ in _members(process)):
        if time.monotonic() > deadline:
            raise TimeoutError("some processes of the container do not stop")
        _signal_all(process, signal.SIGSTOP)
        time.sleep(_POLL_S)


def continue_container(process: ProcessRef) -> None:
    """Continue all processes of a container. Blocking. Processes stopped by its own programs continue too."""
    _signal_all(process, signal.SIGCONT)


def kill_members(process: ProcessRef) -> None:
    """Kill all processes of a container but its first one. Blocking and idempotent; does nothing if it has ended.

    With the first one the kernel ends all others, but closes its terminals before that: their programs, also stopped ones, are
    continued and notified, and could still write.
    """
    for pid, pidfd in _members(process):
        if pid != process.pid:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(pidfd, signal.SIGKILL)


def root_of(process: ProcessRef) -> tuple[int, int]:
    """Return device and inode of the folder that is the root of a container, whatever its current name.

    Raises:
        OSError: it has ended.
    """
    found = Path(f"/proc/{process.pid}/root").stat()
    return found.st_dev, found.st_ino
