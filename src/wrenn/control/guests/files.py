"""Files of a sandbox, through its host's agent. Contents are streamed; at most a chunk is in memory."""

from __future__ import annotations

import re
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Final, Literal

from pydantic import TypeAdapter, ValidationError

from wrenn.base.errors import InvalidRequest, TooLarge
from wrenn.base.units import MIB
from wrenn.control.auth import Credential
from wrenn.control.guests.types import (
    GuestMode,
    GuestOwner,
    GuestPath,
    GuestUser,
    ListFiles,
    Move,
    PathOf,
    UnpackTo,
    WatchOf,
)
from wrenn.control.guests.upload_form import UploadForm
from wrenn.control.hosts import Change, Download, FileInfo
from wrenn.control.http import unknown_name
from wrenn.control.sandboxes import RunningSandboxes
from wrenn.protocol.api import UPLOAD_FORM_LIMIT_B

_CALL_TIMEOUT_S: Final = 60.0
"""Removing or listing a large tree takes the guest some time."""
_FIELDS: Final[dict[str, TypeAdapter[str]]] = {
    "path": TypeAdapter(GuestPath),
    "user": TypeAdapter(GuestUser),
    "mode": TypeAdapter(GuestMode),
    "owner": TypeAdapter(GuestOwner),
    "atomic": TypeAdapter(Literal["true", "false"]),
}
_PART_HEADERS: Final = {
    "Range": re.compile(r"bytes=[0-9, -]{1,100}"),
    "If-Range": re.compile(r"[\x21-\x7e, ]{1,200}"),
}


class Files:
    """Reads, writes, watches and changes files in sandboxes."""

    def __init__(self, running_sandboxes: RunningSandboxes) -> None:
        self._running = running_sandboxes

    @asynccontextmanager
    async def open(
        self, credential: Credential, text_id: str, body: PathOf, headers: Mapping[str, str]
    ) -> AsyncGenerator[Download]:
        """Open a file for reading, or the part of it that `Range` and `If-Range` in the headers ask for.

        Entering raises `NotFound` before any content when there is none.
        """
        part = {
            name: value
            for name, pattern in _PART_HEADERS.items()
            if pattern.fullmatch(value := headers.get(name, ""))
        }
        # Without a range there is nothing that the other could be about.
        part = part if "Range" in part else {}
        query = {"path": body.path, "user": body.user}
        async with (
            self._running.opened(credential, text_id) as running,
            running.host.transfers.read(running.sandbox_id, "files", query, part) as download,
        ):
            yield download

    @asynccontextmanager
    async def open_tree(self, credential: Credential, text_id: str, body: PathOf) -> AsyncGenerator[Download]:
        """Open a directory for reading, as a tar archive."""
        query = {"path": body.path, "user": body.user}
        async with (
            self._running.opened(credential, text_id) as running,
            running.host.transfers.read(running.sandbox_id, "files/tar", query) as download,
        ):
            yield download

    async def write_tree(
        self, credential: Credential, text_id: str, where: UnpackTo, content: AsyncIterator[bytes]
    ) -> None:
        """Unpack a tar archive below a directory."""
        query = {"path": where.path, "user": where.user, "owner": where.owner or ""}
        async with self._running.opened(credential, text_id) as running:
            await running.host.transfers.write(running.sandbox_id, "files/tar", query, content)

    @asynccontextmanager
    async def watch(
        self, credential: Credential, text_id: str, what: WatchOf
    ) -> AsyncGenerator[AsyncIterator[Mapping[str, str] | None]]:
        """Watch a directory; yields its changes, and None when there were none for a while.

        Raises:
            NotFound: no such directory; on entering or with the first change.
        """
        recursive = "true" if what.recursive else ""
        query = {"path": what.path, "user": what.user, "recursive": recursive}
        async with (
            self._running.opened(credential, text_id) as running,
            running.host.transfers.watch(running.sandbox_id, query) as changes,
        ):
            yield (_event(what.path, change) async for change in changes)

    async def write(
        self,
        credential: Credential,
        text_id: str,
        content_type: str,
        content: AsyncIterator[bytes],
        *,
        announced_b: int,
        limit_b: int | None,
    ) -> None:
        """Write the form's part `file` to the path in its part `path`, which must stand before it.

        So must `user`, `mode`, `owner` and `atomic`. `announced_b` is the size of the whole form if the client said it, else 0.

        Raises:
            InvalidRequest: not such a form. TooLarge: the file has more than `limit_b` bytes; nothing was replaced.
        """
        if limit_b is not None and announced_b > limit_b + UPLOAD_FORM_LIMIT_B:
            raise too_large(limit_b)
        async with self._running.opened(credential, text_id) as running:
            form = UploadForm(content_type, content)
            fields = await form.fields()
            if "path" not in fields:
                raise InvalidRequest("The part 'path' must stand before the part 'file'.")
            query = {name: _field(name, value) for name, value in fields.items()}
            file = _limited(form.file(), limit_b)
            await running.host.transfers.write(running.sandbox_id, "files", query, file)

    async def list(self, credential: Credential, text_id: str, body: ListFiles) -> list[FileInfo]:
        """List a directory."""
        running = await self._running.find_or_resume(credential, text_id)
        return await running.host.list_dir(
            running.sandbox_id,
            body.path,
            depth=body.depth or 1,
            user=body.user,
            timeout_s=_CALL_TIMEOUT_S,
        )

    async def stat(self, credential: Credential, text_id: str, body: PathOf) -> FileInfo:
        """Return what is known about a path."""
        running = await self._running.find_or_resume(credential, text_id)
        return await running.host.stat(
            running.sandbox_id, body.path, user=body.user, timeout_s=_CALL_TIMEOUT_S
        )

    async def make_dir(self, credential: Credential, text_id: str, body: PathOf) -> FileInfo:
        """Create a directory and its parents.

        Raises:
            Conflict: there is something at this path.
        """
        running = await self._running.find_or_resume(credential, text_id)
        return await running.host.make_dir(
            running.sandbox_id, body.path, user=body.user, timeout_s=_CALL_TIMEOUT_S
        )

    async def remove(self, credential: Credential, text_id: str, body: PathOf) -> None:
        """Remove a file, or a directory with everything in it; does nothing if there is none."""
        running = await self._running.find_or_resume(credential, text_id)
        await running.host.remove_path(
            running.sandbox_id, body.path, user=body.user, timeout_s=_CALL_TIMEOUT_S
        )

    async def move(self, credential: Credential, text_id: str, body: Move) -> FileInfo:
        """Rename a file or directory."""
        running = await self._running.find_or_resume(credential, text_id)
        return await running.host.move(
            running.sandbox_id,
            source=body.source,
            destination=body.destination,
            user=body.user,
            timeout_s=_CALL_TIMEOUT_S,
        )


def _event(top: str, change: Change) -> Mapping[str, str] | None:
    match change.kind:
        case "keepalive":
            return None
        case "started":
            return {"type": "started"}
        case kind:
            path = f"{top.rstrip('/')}/{change.name}" if change.name else top
            return {"type": "event", "event": kind, "path": path, "name": change.name}


def _field(name: str, value: str) -> str:
    if name not in _FIELDS:
        raise InvalidRequest(f"{unknown_name('part', name, [*_FIELDS, 'file'])}.")
    try:
        return _FIELDS[name].validate_python(value)
    except ValidationError as error:
        raise InvalidRequest(f"{name}: {error.errors()[0]['msg'].removeprefix('Value error, ')}.") from error


async def _limited(content: AsyncIterator[bytes], limit_b: int | None) -> AsyncIterator[bytes]:
    size_b = 0
    async for chunk in content:
        size_b += len(chunk)
        if limit_b is not None and size_b > limit_b:
            raise too_large(limit_b)
        yield chunk


def too_large(limit_b: int) -> TooLarge:
    """Build the error for a file above the limit."""
    return TooLarge(f"The file has more than {limit_b // MIB} MiB: send it to files/stream/write.")
