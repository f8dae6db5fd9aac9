"""Carries out `COPY --from`: files go from the sandbox of one stage into that of another, as they come."""

from __future__ import annotations

import posixpath
from dataclasses import dataclass
from typing import Final

from wrenn.base.errors import InvalidRequest, NotFound
from wrenn.base.ids import SandboxId
from wrenn.control.hosts import FileInfo, HostClient
from wrenn.recipe import Copy
from wrenn.recipe.limits import shown
from wrenn.recipe.patterns import compile_pattern, has_wildcards

_TIMEOUT_S: Final = 60.0
_MATCHES: Final = 1000
"""Files and directories that the patterns of one COPY match; each is a transfer."""
_LISTED: Final = 200
"""Directories that are listed for the patterns of one COPY."""


@dataclass(frozen=True, slots=True)
class Place:
    """A sandbox, and the client for its host."""

    sandbox_id: SandboxId
    host: HostClient

    async def find(self, path: str) -> FileInfo | None:
        """Return what is at a path, or None."""
        try:
            return await self.host.stat(self.sandbox_id, path, user="root", timeout_s=_TIMEOUT_S)
        except NotFound:
            return None

    async def is_directory(self, path: str) -> bool:
        """Whether there is a directory, or a link to one."""
        found = await self.find(path)
        return found is not None and found.type == "directory"

    async def names(self, directory: str) -> list[str]:
        """Return the names in a directory, in order; none if there is no such directory."""
        try:
            found = await self.host.list_dir(
                self.sandbox_id, directory, depth=1, user="root", timeout_s=_TIMEOUT_S
            )
        except (NotFound, InvalidRequest):
            return []
        return sorted(entry.name for entry in found)


async def copy_between(step: Copy, source: Place, target: Place) -> None:
    """Copy what the step selects in `source` into `target`. A directory stands for what it contains; links to sources are followed.

    Raises:
        InvalidRequest: the stage lacks a source, or a pattern matches too many files. WrennError: a sandbox or its host failed.
    """
    matches = await _matches(step, source)
    into = step.into_directory or len(matches) > 1 or await target.is_directory(step.destination)
    for path in matches:
        if await source.is_directory(path):
            await _transfer(step, source, target, {"path": path}, step.destination)
            continue
        directory, name = posixpath.split(step.destination)
        if into or not name:
            directory, name = step.destination, posixpath.basename(path)
        await _transfer(step, source, target, {"path": path, "entry_name": name}, directory)


async def _transfer(
    step: Copy, source: Place, target: Place, selected: dict[str, str], directory: str
) -> None:
    read = {"user": "root", "one_file_system": "true", **selected}
    write = {"user": "root", "path": directory}
    write |= {"keep_owners": "true"} if step.owner is None else {"owner": step.owner}
    if step.mode is not None:
        write["mode"] = f"{step.mode:o}"
    async with source.host.transfers.read(source.sandbox_id, "files/tar", read) as download:
        await target.host.transfers.write(target.sandbox_id, "files/tar", write, download.chunks)


async def _matches(step: Copy, source: Place) -> list[str]:
    """Return the paths that the sources name, in order. A pattern may match nothing, a path must be there."""
    matches: dict[str, None] = {}
    listed = 0
    for pattern in step.sources:
        found = ["/"]
        for part in pattern.split("/"):
            if not has_wildcards(part):
                found = [posixpath.normpath(posixpath.join(path, part)) for path in found]
                continue
            expression = compile_pattern(part)
            listed += len(found)
            if listed > _LISTED:
                raise InvalidRequest(f"{shown(pattern)} looks into more than {_LISTED} directories.")
            found = [
                posixpath.join(path, name)
                for path in found
                for name in await source.names(path)
                if expression.fullmatch(name)
            ]
            if len(found) > _MATCHES:
                raise InvalidRequest(f"{shown(pattern)} matches more than {_MATCHES} files.")
        there = [path for path in found if path == "/" or await source.find(path) is not None]
        if not there and not has_wildcards(pattern):
            raise InvalidRequest(f"The stage has no {shown('/' + pattern)}.")
        matches |= dict.fromkeys(there)
    return list(matches)
