"""Files of a sandbox, through its host's agent. Contents stream through; at most a chunk is held."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager
from typing import Final

from pydantic import TypeAdapter, ValidationError

from wrenn.base.errors import InvalidRequest, TooLarge
from wrenn.base.units import MIB
from wrenn.control.auth import Credential
from wrenn.control.hosts import Download
from wrenn.control.sandboxes.targets import Target, Targets
from wrenn.control.sandboxes.types import GuestPath, GuestUser, ListFiles, Move, PathOf
from wrenn.control.sandboxes.upload_form import UploadForm
from wrenn.protocol.api import UPLOAD_FORM_LIMIT_B
from wrenn.protocol.host import host_pb as pb

_CALL_TIMEOUT_S: Final = 60.0
"""Removing or listing a large tree takes the guest some time."""
_FIELDS: Final[dict[str, TypeAdapter[str]]] = {"path": TypeAdapter(GuestPath), "user": TypeAdapter(GuestUser)}


class Files:
    """See the module head."""

    def __init__(self, targets: Targets) -> None:
        self._targets = targets

    async def open(
        self, credential: Credential, text_id: str, body: PathOf
    ) -> AbstractAsyncContextManager[Download]:
        """A file to read; entering raises `NotFound` before any content when there is none."""
        target = await self._targets.target(credential, text_id)
        return target.host.read_file(target.sandbox_id, body.path, user=body.user)

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

        `announced_b` is the size of the whole form if the client said it, else 0.

        Raises:
            InvalidRequest: not such a form. TooLarge: the file has more than `limit_b` bytes; nothing was replaced.
        """
        if limit_b is not None and announced_b > limit_b + UPLOAD_FORM_LIMIT_B:
            raise too_large(limit_b)
        target = await self._targets.target(credential, text_id)
        form = UploadForm(content_type, content)
        fields = await form.fields()
        if "path" not in fields:
            raise InvalidRequest("The part 'path' must stand before the part 'file'.")
        path, user = (_field(fields, name, default) for name, default in (("path", ""), ("user", "root")))
        await target.host.write_file(target.sandbox_id, path, _limited(form.file(), limit_b), user=user)

    async def list(self, credential: Credential, text_id: str, body: ListFiles) -> list[dict[str, object]]:
        """What is in a directory."""
        target = await self._targets.target(credential, text_id)
        request = pb.ListDirRequest(
            sandbox_id=str(target.sandbox_id), path=body.path, depth=body.depth or 1, user=body.user
        )
        answer = await target.host.call(target.host.rpc.list_dir, request, timeout_s=_CALL_TIMEOUT_S)
        return [_entry(entry) for entry in answer.entries]

    async def stat(self, credential: Credential, text_id: str, body: PathOf) -> dict[str, object]:
        """What is known about one path."""
        target = await self._targets.target(credential, text_id)
        rpc = target.host.rpc
        return _entry(await target.host.call(rpc.stat, _path(target, body), timeout_s=_CALL_TIMEOUT_S))

    async def make_dir(self, credential: Credential, text_id: str, body: PathOf) -> dict[str, object]:
        """Make a directory and its parents.

        Raises:
            Conflict: there is something at this path.
        """
        target = await self._targets.target(credential, text_id)
        rpc = target.host.rpc
        return _entry(await target.host.call(rpc.make_dir, _path(target, body), timeout_s=_CALL_TIMEOUT_S))

    async def remove(self, credential: Credential, text_id: str, body: PathOf) -> None:
        """Remove a file, or a directory with all that is in it; nothing there is fine."""
        target = await self._targets.target(credential, text_id)
        rpc = target.host.rpc
        await target.host.call(rpc.remove_path, _path(target, body), timeout_s=_CALL_TIMEOUT_S)

    async def move(self, credential: Credential, text_id: str, body: Move) -> dict[str, object]:
        """Give a file or directory another path."""
        target = await self._targets.target(credential, text_id)
        request = pb.MoveRequest(
            sandbox_id=str(target.sandbox_id),
            source=body.source,
            destination=body.destination,
            user=body.user,
        )
        return _entry(await target.host.call(target.host.rpc.move, request, timeout_s=_CALL_TIMEOUT_S))


def _path(target: Target, body: PathOf) -> pb.PathRequest:
    return pb.PathRequest(sandbox_id=str(target.sandbox_id), path=body.path, user=body.user)


def _field(fields: dict[str, str], name: str, default: str) -> str:
    try:
        return _FIELDS[name].validate_python(fields.get(name, default))
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
    """The refusal of a file above the limit."""
    return TooLarge(f"The file has more than {limit_b // MIB} MiB: send it to files/stream/write.")


def _entry(entry: pb.FileEntry) -> dict[str, object]:
    fields: dict[str, object] = {
        "name": entry.name,
        "path": entry.path,
        "type": _kind(entry),
        "size": entry.size_b,
        "mode": entry.mode,
        "permissions": entry.permissions,
        "owner": entry.owner,
        "group": entry.group,
        "modified_at": entry.modified_at_unix,
    }
    if entry.symlink_target:
        fields["symlink_target"] = entry.symlink_target
    return fields


def _kind(entry: pb.FileEntry) -> str:
    """One of the three that clients know: a broken link is a link, a socket, pipe or device is a file."""
    if entry.type == pb.FileType.SYMLINK or entry.symlink_target:
        return "symlink"
    return "directory" if entry.type == pb.FileType.DIRECTORY else "file"
