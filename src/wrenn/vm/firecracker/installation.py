"""Firecracker and its jailer on this machine: where they are, which version, and whether they can be used."""

from __future__ import annotations

import os
import re
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from wrenn.base.errors import InvalidState
from wrenn.linux.command import CommandError, run
from wrenn.vm.firecracker.api import NEWEST_VERSION, OLDEST_VERSION, is_supported

_SEARCHED: Final = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_VERSION: Final = re.compile(r"v(\d+)\.(\d+)\.(\d+)")
_TIMEOUT_S: Final = 10.0


@dataclass(frozen=True, slots=True)
class Installation:
    """The two programs, which are of one version."""

    program: Path
    jailer: Path
    version: tuple[int, int, int]

    @property
    def vmm(self) -> str:
        """Name and version, as manifests have it."""
        return f"firecracker {dotted(self.version)}"


def dotted(version: tuple[int, ...]) -> str:
    """Return a version as text."""
    return ".".join(str(part) for part in version)


async def find_installation(folder: Path | None = None) -> Installation:
    """Return the programs in `folder`, or else in the usual folders for programs.

    Raises:
        InvalidState: one is missing, not supported or of another version than the other; the message says what to do.
    """
    program, jailer = (_find(name, folder) for name in ("firecracker", "jailer"))
    version, jailers = [await _version(path) for path in (program, jailer)]
    if version != jailers:
        raise InvalidState(
            f"{program} has version {dotted(version)}, but {jailer} has {dotted(jailers)}: install both from one release."
        )
    if not is_supported(version):
        raise InvalidState(
            f"{program} has version {dotted(version)}; versions {dotted(OLDEST_VERSION)} to {dotted(NEWEST_VERSION)} are supported."
        )
    return Installation(program, jailer, version)


def _find(name: str, folder: Path | None) -> Path:
    path = shutil.which(name, path=str(folder) if folder else _SEARCHED)
    if path is None:
        where = str(folder) if folder else "/usr/local/bin or another usual folder"
        raise InvalidState(
            f"There is no program {name} in {where}: install Firecracker's release (docs/howto/run-on-kvm.md)."
        )
    found = Path(path).resolve()
    status = found.stat()
    # Root executes it.
    if status.st_uid not in (0, os.geteuid()) or status.st_mode & 0o022:
        raise InvalidState(
            f"Others than root may change {found}; run: chown root {found} && chmod 755 {found}"
        )
    return found


async def _version(path: Path) -> tuple[int, int, int]:
    try:
        output = (await run([str(path), "--version"], timeout_s=_TIMEOUT_S)).decode(errors="replace")
    except CommandError as error:
        raise InvalidState(f"{path} --version failed: is it built for this machine?") from error
    found = _VERSION.search(output)
    if found is None:
        raise InvalidState(f"{path} does not tell its version.")
    return int(found[1]), int(found[2]), int(found[3])
