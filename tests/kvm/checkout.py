"""The whole checkout in the host machine, for programs that are more than an agent: the control plane, the command, pytest.

It is sent when a test wants it, so a change of them needs no new saved state.
"""

from __future__ import annotations

import compileall
import importlib.metadata
from pathlib import Path
from typing import Final

from tests.kvm.host_machine import HostMachine
from tests.kvm.sources import CHECKOUT, metadata_of_wrenn, tar_of
from wrenn.base.built_programs import find_built_program

FOLDER: Final = "/data/checkout"
_TREES: Final = ("src", "tests", "images")
_LEFT_OUT: Final = ("node_modules", "tests/data", "tests/dashboard")
_PROGRAMS: Final = ("envd", "pager")
_PYTHON_PACKAGES: Final = ("pytest-asyncio", "pytest-timeout")
"""What pytest needs beside the packages of the host machine. All of it is Python."""
_SEND_TIMEOUT_S: Final = 400.0
_ENVIRONMENT: Final = {
    "PATH": "/usr/sbin:/usr/bin:/sbin:/bin",
    "HOME": "/root",
    "PYTHONPATH": f"{FOLDER}/src:{FOLDER}:{FOLDER}/python:/data/python",
    # /tmp is in memory.
    "TMPDIR": "/data/tmp",
    "DM_DISABLE_UDEV": "1",
    "WRENN_IMAGES_DIR": "/data/images",
    # Python is slow here, and KVM runs in an emulated machine.
    "WRENN_START_LIMIT_S": "200",
    "WRENN_KVM_PROBE_S": "120",
    "WRENN_UP_TIMEOUT_S": "900",
}


async def send_checkout(machine: HostMachine) -> None:
    """Put it there, with the bytecode of its modules."""
    compileall.compile_dir(CHECKOUT / "src", quiet=2)
    await machine.call("unpack", _archive(), FOLDER, timeout_s=_SEND_TIMEOUT_S)
    await machine.shell("mkdir -p /data/tmp")


async def run_python(
    machine: HostMachine, arguments: str, environment: dict[str, str], *, timeout_s: float
) -> tuple[int, str]:
    """Run `python3` with these arguments on the checkout; return its exit code and its output."""
    settings = " ".join(f"{name}='{value}'" for name, value in {**_ENVIRONMENT, **environment}.items())
    script = f"cd {FOLDER} && exec env -i {settings} timeout {timeout_s:.0f} python3 {arguments}"
    # The shell's own limit is the later one, so that the output of what took too long is seen.
    return await machine.call("shell", script, timeout_s=timeout_s + 30)


def _archive() -> bytes:
    contents = metadata_of_wrenn()
    paths = [CHECKOUT / "pyproject.toml"]
    for tree in _TREES:
        paths += [path for path in (CHECKOUT / tree).rglob("*") if path.is_file() and _is_needed(path)]
    paths += [path for name in _PROGRAMS if (path := find_built_program(name)) is not None]
    for name in _PYTHON_PACKAGES:
        package = importlib.metadata.distribution(name)
        for file in package.files or ():
            found = Path(str(package.locate_file(file)))
            if ".." not in file.parts and found.is_file():
                contents[f"python/{file}"] = found.read_bytes()
    contents |= {str(path.relative_to(CHECKOUT)): path.read_bytes() for path in paths}
    # Bytecode is only valid for a source of that time.
    times = {str(path.relative_to(CHECKOUT)): int(path.stat().st_mtime) for path in paths}
    return tar_of(contents, times)


def _is_needed(path: Path) -> bool:
    name = str(path.relative_to(CHECKOUT))
    return not any(left_out in name for left_out in _LEFT_OUT)
