"""Queries and downloads packages through the machine's own apt. Nothing is installed, and no mirror is hard-coded."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Final, TypeVar

from wrenn.base.errors import Unavailable
from wrenn.linux.command import CommandError, run

_QUERY_TIMEOUT_S: Final = 60.0
_FETCH_TIMEOUT_S: Final = 600.0
"""Enough for a kernel with its modules (30–150 MB) from a slow mirror."""

_T = TypeVar("_T")

# For downloads apt drops its privileges to the user `_apt`, who cannot write into a private scratch folder.
_AS_ROOT: Final = ("-o", "APT::Sandbox::User=root")


async def update() -> CommandError | None:
    """Update the package lists. Returns the error if a source failed, which may be one that is not needed here."""
    try:
        await run(
            ["apt-get", *_AS_ROOT, "-o", "APT::Update::Error-Mode=any", "--quiet", "update"],
            timeout_s=_FETCH_TIMEOUT_S,
        )
    except CommandError as error:
        return error
    return None


async def dependencies(package: str) -> list[str]:
    """Return the names of the packages that `package` depends on; updates the package lists if it is unknown.

    Raises:
        Unavailable: apt does not know the package, even after an update.
    """

    async def ask() -> list[str]:
        text = await run(["apt-cache", "depends", "--important", package], timeout_s=_QUERY_TIMEOUT_S)
        found = re.findall(r"^\s*\|?(?:Pre)?Depends: ([^<\s]+)", text.decode(), re.MULTILINE)
        if not found:
            raise CommandError(f"apt lists no dependencies of {package}.")
        return found

    return await _after_update_if_needed(ask, doing=f"find the package {package}")


async def download(packages: Sequence[str], into: Path) -> list[Path]:
    """Download the newest `.deb` of each package into the empty folder `into`; returns the files.

    Raises:
        Unavailable: apt does not know a package or cannot reach its mirror.
    """

    async def fetch() -> list[Path]:
        await run(
            ["apt-get", *_AS_ROOT, "--quiet", "download", *packages], timeout_s=_FETCH_TIMEOUT_S, cwd=into
        )
        return sorted(into.glob("*.deb"))

    return await _after_update_if_needed(fetch, doing=f"download {', '.join(packages)}")


async def source_lines(origin: str, *, keyring: str) -> list[str]:
    """Return the machine's package sources of one distribution, as `deb …` lines that work in an empty system.

    Raises:
        Unavailable: the machine has no source of this origin.
    """
    form = "$(ORIGIN)|$(REPO_URI)|$(RELEASE)|$(COMPONENT)|$(ARCHITECTURE)"

    async def ask() -> list[str]:
        text = await run(
            ["apt-get", "indextargets", "--format", form, "Created-By: Packages"], timeout_s=_QUERY_TIMEOUT_S
        )
        rows = (line.split("|") for line in text.decode().splitlines())
        lines = {
            f"deb [signed-by={keyring}] {row[1]} {row[2]} {row[3]}"
            for row in rows
            if row[0] == origin and row[4] == "amd64"
        }
        if not lines:
            raise CommandError(f"apt has no package source of the origin {origin}.")
        return sorted(lines)

    return await _after_update_if_needed(ask, doing=f"find the package sources of {origin}")


async def acquire_options() -> list[str]:
    """Return the machine's proxy and clock settings for downloads, as apt configuration lines."""
    text = await run(["apt-config", "dump", "Acquire"], timeout_s=_QUERY_TIMEOUT_S)
    wanted = re.compile(r'^Acquire::(?:https?::Proxy|Check-Date|Check-Valid-Until)\S* "[^"]+";$')
    return [line for line in text.decode().splitlines() if wanted.match(line)]


def reason_of(error: CommandError) -> str:
    """Return what a failed apt command reported, as a sentence: what it could not fetch, or its last error."""
    lines = str(error.context.get("stderr") or error.message).strip().splitlines()
    not_fetched = [line for line in lines if "Failed to fetch" in line]
    errors = [line for line in lines if line.startswith("E: ")]
    return re.sub("^[EW]: ", "", (not_fetched[:1] or errors or lines)[-1]).strip().rstrip(".") + "."


async def _after_update_if_needed(ask: Callable[[], Awaitable[_T]], *, doing: str) -> _T:
    try:
        return await ask()
    except CommandError:
        pass  # a new machine has no package lists, and an old one has lists of files that no longer exist
    update_failure = await update()
    try:
        return await ask()
    except CommandError as error:
        cause = update_failure or error
        raise Unavailable(
            f"apt could not {doing}: {reason_of(cause)} Check the network and /etc/apt, then try: sudo apt-get update",
            context=cause.context,
        ) from cause


async def versions(package: str) -> tuple[str, str]:
    """Return the installed version of a package and the newest in the package lists of this machine.

    Raises:
        CommandError: apt is missing, or the package was not installed from it.
    """
    text = (await run(["apt-cache", "policy", package], timeout_s=_QUERY_TIMEOUT_S)).decode()
    found: dict[str, str] = dict(re.findall(r"^  (Installed|Candidate): (\S+)$", text, re.MULTILINE))
    if len(found) < 2 or "(none)" in found.values():
        raise CommandError(f"{package} is not installed by apt.")
    return found["Installed"], found["Candidate"]
