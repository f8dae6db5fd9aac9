"""A machine of its own, as far as files and network go: what is installed and written there is gone with it.

Its root is an overlay on this machine's, so that it has the same Debian packages. It shares the kernel with it, `/run`, in which
installations claim their share of the kernel's names, and the folder of the test.
"""

from __future__ import annotations

import asyncio
import subprocess
import sys
import sysconfig
import zipfile
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from wrenn.base.built_programs import find_built_program

ROOT: Final = Path(__file__).resolve().parents[2]
_OF_THE_KERNEL: Final = ("/proc", "/sys", "/dev", "/run")
_SYSTEM_PATH: Final = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_START_LIMIT_S: Final = 10.0
_RUN_LIMIT_S: Final = 120.0
# It waits for the end of its standard input, so that it ends with the test.
_MAKE: Final = """
set -eu
mount -t tmpfs -o mode=755,size=1g tmpfs "$1"
mkdir "$1/upper" "$1/work" "$1/root"
mount -t overlay overlay -o "lowerdir=/,upperdir=$1/upper,workdir=$1/work" "$1/root"
root=$1/root
shift
for shared; do
  mkdir -p "$root$shared"
  mount --rbind "$shared" "$root$shared"
done
cd "$root"
pivot_root . mnt
umount -l /mnt
echo ready
exec cat >/dev/null
"""


@dataclass
class Machine:
    """A machine that runs. `environment` is what its programs have."""

    holder: subprocess.Popen[bytes]
    environment: dict[str, str]
    log: Path
    processes: list[subprocess.Popen[bytes]] = field(default_factory=list[subprocess.Popen[bytes]])

    def path(self, inside: str) -> Path:
        """Where a file of the machine is, for the test."""
        return Path(f"/proc/{self.holder.pid}/root{inside}")

    def _command(self, command: Sequence[str], environment: Mapping[str, str]) -> list[str]:
        settings = [f"{name}={value}" for name, value in {**self.environment, **environment}.items()]
        place = ["nsenter", f"--target={self.holder.pid}", "--mount", "--net"]
        return [*place, "env", "-i", *settings, *command]

    def start(
        self, command: Sequence[str], environment: Mapping[str, str] | None = None
    ) -> subprocess.Popen[bytes]:
        """Start a program that ends with the machine, if not before."""
        with self.log.open("ab") as log:
            process = subprocess.Popen(
                self._command(command, environment or {}), stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )
        self.processes.append(process)
        return process

    async def run(self, script: str, *, stdin: str = "", environment: Mapping[str, str] | None = None) -> str:
        """Run a script of the shell that succeeds; returns what it printed."""
        process = await asyncio.create_subprocess_exec(
            *self._command(["bash", "-euo", "pipefail", "-c", script], environment or {}),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        try:
            async with asyncio.timeout(_RUN_LIMIT_S):
                output, errors = await process.communicate(stdin.encode())
        finally:
            if process.returncode is None:
                process.kill()
        assert process.returncode == 0, f"{script}\n{output.decode()}\n{errors.decode()}"
        return output.decode()

    async def run_refused(self, script: str, *, stdin: str = "") -> str:
        """Run a script that fails; returns what it printed."""
        return await self.run(f"! (\n{script}\n) 2>&1", stdin=stdin)


@asynccontextmanager
async def machine(
    folder: Path, wheels: Path, hosts: Mapping[str, str], *, namespace: str | None = None
) -> AsyncGenerator[Machine]:
    """Run a machine in this network namespace, with a folder that it shares with the test, and which knows these `hosts` by name.

    What pip installs there is in `wheels`; their dependencies are those of this checkout.
    """
    folder.mkdir()
    place = folder / "root"
    place.mkdir()
    enter = [] if namespace is None else ["nsenter", f"--net=/run/netns/{namespace}"]
    shared = [*_OF_THE_KERNEL, str(folder.parent), *_mounts_of_files()]
    holder = subprocess.Popen(
        [
            *enter,
            "unshare",
            "--mount",
            "--propagation",
            "private",
            "sh",
            "-c",
            _MAKE,
            "sh",
            str(place),
            *shared,
        ],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    made = Machine(holder, _environment(folder, wheels), folder / "programs.log")
    try:
        assert holder.stdout is not None
        async with asyncio.timeout(_START_LIMIT_S):
            assert await asyncio.to_thread(holder.stdout.readline) == b"ready\n"
        made.path("/etc/hosts").write_text(
            "127.0.0.1 localhost\n" + "".join(f"{address} {name}\n" for name, address in hosts.items())
        )
        # Whatever this checkout is in is open to all users of the machine, as what Debian installs is.
        for used in (Path(sys.executable), Path(sysconfig.get_path("purelib"))):
            for parent in used.resolve().parents:
                made.path(str(parent)).chmod(0o755)
        yield made
    finally:
        for process in made.processes:
            process.terminate()
        for process in made.processes:
            process.wait(30)
        assert holder.stdin is not None
        holder.stdin.close()
        assert holder.stdout is not None
        holder.stdout.close()
        holder.wait(30)
        place.rmdir()


def build_wheel(folder: Path) -> None:
    """Build the package of this checkout, with the program of Rust that a release has in it."""
    command = [sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory", str(folder)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True, timeout=60)
    (wheel,) = folder.glob("*.whl")
    envd = find_built_program("envd")
    assert envd is not None, "make setup builds it"
    with zipfile.ZipFile(wheel, "a") as archive:
        archive.write(envd, "wrenn/_bin/envd")


def _environment(folder: Path, wheels: Path) -> dict[str, str]:
    return {
        "PATH": f"/opt/wrenn/bin:{Path(sys.executable).resolve().parent}:{_SYSTEM_PATH}",
        "HOME": str(folder / "home"),
        "LANG": "C.UTF-8",
        "PYTHONPATH": sysconfig.get_path("purelib"),
        "PIP_NO_INDEX": "1",
        "PIP_FIND_LINKS": str(wheels),
        "PIP_NO_DEPS": "1",
        "PIP_IGNORE_INSTALLED": "1",
        "PIP_ROOT_USER_ACTION": "ignore",
    }


def _mounts_of_files() -> list[str]:
    """What is mounted on this machine besides the kernel's file systems, for instance the folder of the checkout. An overlay has none of it."""
    found: list[str] = []
    for line in Path("/proc/self/mounts").read_text().splitlines():
        place = line.split()[1]
        above = ("/etc", "/var/lib/wrenn", "/opt", *_OF_THE_KERNEL, *found)
        if (
            place != "/"
            and Path(place).is_dir()
            and not any(f"{place}/".startswith(f"{each}/") for each in above)
        ):
            found.append(place)
    return found
