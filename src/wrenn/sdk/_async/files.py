"""Files of a sandbox. Paths are absolute; without a `user` the platform acts as the guest's root."""

from __future__ import annotations

import builtins
import os
from collections.abc import AsyncIterator
from typing import Final, Literal, overload

from wrenn.sdk._aio import Source, chunks_of
from wrenn.sdk._async import copying, reading
from wrenn.sdk._async.api import AsyncApi, path_of
from wrenn.sdk._async.watching import AsyncWatch, open_watch
from wrenn.sdk._form import UploadForm
from wrenn.sdk._parse import Fields, json_of
from wrenn.sdk._paths import Progress, RemotePath, Resumed, message_of, remote
from wrenn.sdk._source import as_bytes
from wrenn.sdk.errors import ConflictError, InvalidRequestError, NotFoundError
from wrenn.sdk.types import FileEntry

STREAM_ABOVE_B: Final = 8 * 1024 * 1024
"""Larger contents, and those of unknown size, are streamed."""


class AsyncFiles:
    """`sandbox.files`.

    A path is a text, or bytes where it is no UTF-8; what `os.fsdecode` gives and `FileEntry.path` are good too.
    """

    def __init__(self, api: AsyncApi, sandbox_id: str) -> None:
        self._api = api
        self._sandbox_id = sandbox_id

    @overload
    async def read(
        self,
        path: RemotePath,
        format: Literal["text"] = "text",
        *,
        offset: int = 0,
        length: int | None = None,
        user: str | None = None,
    ) -> str: ...

    @overload
    async def read(
        self,
        path: RemotePath,
        format: Literal["bytes"],
        *,
        offset: int = 0,
        length: int | None = None,
        user: str | None = None,
    ) -> bytes: ...

    async def read(
        self,
        path: RemotePath,
        format: Literal["text", "bytes"] = "text",  # noqa: A002
        *,
        offset: int = 0,
        length: int | None = None,
        user: str | None = None,
    ) -> str | bytes:
        """The content of a file, as UTF-8 text or as bytes. For large files there is `read_stream`.

        With `offset` and `length` only that part of it; what is beyond its end is not there.

        Raises:
            NotFoundError: there is no such file.
            InvalidRequestError: `text` was asked for and the content is not UTF-8.
        """
        chunks = self.read_stream(path, offset=offset, length=length, user=user)
        body = b"".join([chunk async for chunk in chunks])
        if format == "bytes":
            return body
        try:
            return body.decode()
        except UnicodeDecodeError as error:
            raise InvalidRequestError(
                f"{remote(path)} is not UTF-8 text: read it with format='bytes'."
            ) from error

    async def read_stream(
        self,
        path: RemotePath,
        *,
        offset: int = 0,
        length: int | None = None,
        user: str | None = None,
        on_resume: Resumed | None = None,
    ) -> AsyncIterator[bytes]:
        """The content of a file in chunks, as they arrive.

        When the connection breaks, reading goes on where it was, provided that the file is the same; `on_resume` is then
        called with the position.

        Raises:
            ConnectionFailedError: the content broke off and could not be gone on with.
            ConflictError: it broke off, and the file has changed.
        """
        url = self._url("stream", "read")
        chunks = reading.chunks(
            self._api, url, message_of(path, user), offset=offset, length=length, on_resume=on_resume
        )
        async for chunk in chunks:
            yield chunk

    async def write(
        self,
        path: RemotePath,
        data: Source,
        *,
        mode: int | None = None,
        owner: str | None = None,
        atomic: bool | None = None,
        user: str | None = None,
    ) -> None:
        """Write a file from text, bytes or what has a buffer, the file at a `Path` here, a binary file object, or an iterator of bytes.

        Parents are made, an existing file is replaced. `mode`: its permission bits, e.g. `0o755`; `owner`: `"user"` or
        `"user:group"`. With `atomic` the new content takes the old one's place as a whole or not at all: the default for
        what is sent in pieces (files, iterators, more than 8 MiB), so that a transfer that breaks off leaves the old file. Such
        a write refuses devices and other special files; `atomic=False` writes into them. Not repeated when the connection
        breaks: write again.
        """
        if isinstance(data, os.PathLike):
            await copying.write_file(self, data, path, mode=mode, owner=owner, atomic=atomic, user=user)
            return
        whole = as_bytes(data)
        is_small = whole is not None and len(whole) <= STREAM_ABOVE_B
        atomic = not is_small if atomic is None else atomic
        fields = message_of(path, user)
        if mode is not None:
            fields["mode"] = f"{mode:o}"
        if owner is not None:
            fields["owner"] = owner
        if atomic:
            fields["atomic"] = "true"
        form = UploadForm(fields)
        if whole is not None and is_small:
            await self._api.call(
                "POST",
                self._url("write"),
                headers={"Content-Type": form.content_type},
                content=form.head + whole + form.tail,
            )
        else:
            await self._api.upload(
                self._url("stream", "write"),
                _framed(form, data if whole is None else whole),
                content_type=form.content_type,
            )

    async def upload(
        self,
        source: str | os.PathLike[str],
        path: RemotePath,
        *,
        owner: str | None = None,
        atomic: bool | None = None,
        user: str | None = None,
        on_progress: Progress | None = None,
    ) -> None:
        """Copy a file or a directory of this machine to `path`, with its modes. A file arrives as a whole or not at all, as in `write`.

        What is in a directory goes below `path`: files are replaced, directories merged; links, empty directories and times
        are kept, sockets left out. `on_progress` is called with the bytes sent and, for a file, their number.

        Raises:
            InvalidRequestError: there is no such file or directory here.
        """
        await copying.upload(
            self, self._api, source, path, owner=owner, atomic=atomic, user=user, on_progress=on_progress
        )

    async def download(
        self,
        path: RemotePath,
        target: str | os.PathLike[str],
        *,
        user: str | None = None,
        on_progress: Progress | None = None,
        on_resume: Resumed | None = None,
    ) -> None:
        """Copy a file or a directory of the sandbox to `target` on this machine.

        A file appears as a whole or not at all, a directory too, unless `target` exists: then files are replaced and
        directories merged. Modes (without setuid), links and times are kept, owners are not; sockets and devices are left
        out. `on_progress` is called with the bytes received and, for a file, their number. A file is gone on with after a
        broken connection, as by `read_stream`.

        Raises:
            NotFoundError: there is nothing at `path`.
            UnexpectedAnswerError: the sandbox sent an archive that may not be unpacked.
        """
        await copying.download(
            self, self._api, path, target, user=user, on_progress=on_progress, on_resume=on_resume
        )

    async def watch(
        self, path: RemotePath, *, recursive: bool = False, user: str | None = None
    ) -> AsyncWatch:
        """Listen to the changes in a directory; none is missed after this has returned. Close it at the end.

        Listening is no use of the sandbox: its `timeout_sec` goes on.

        Raises:
            NotFoundError: there is no such directory.
        """
        return await open_watch(self._api, self._url("watch"), message_of(path, user), recursive=recursive)

    async def list(
        self, path: RemotePath, depth: int = 1, *, user: str | None = None
    ) -> builtins.list[FileEntry]:
        """What is in a directory, down to `depth` levels."""
        if depth < 1:
            raise InvalidRequestError(f"depth must be at least 1, not {depth}.")
        message = {**message_of(path, user), "depth": depth}
        body = await self._api.call("POST", self._url("list"), json=message, repeatable=True)
        return [
            FileEntry.parse(fields)
            for fields in Fields("list", json_of(body)).objects("entries", "file entry")
        ]

    async def stat(self, path: RemotePath, *, user: str | None = None) -> FileEntry:
        """What is known about one path.

        Raises:
            NotFoundError: there is nothing.
        """
        return _entry(
            await self._api.call("POST", self._url("stat"), json=message_of(path, user), repeatable=True)
        )

    async def exists(self, path: RemotePath, *, user: str | None = None) -> bool:
        """True for a file, directory or link, also one that leads nowhere."""
        try:
            await self.stat(path, user=user)
        except NotFoundError:
            return False
        return True

    async def make_dir(self, path: RemotePath, *, user: str | None = None) -> bool:
        """Make a directory and its parents; False when it is there already."""
        try:
            await self._api.call("POST", self._url("mkdir"), json=message_of(path, user))
        except ConflictError as error:
            if error.code != "conflict":
                raise
            return False
        return True

    async def remove(self, path: RemotePath, *, user: str | None = None) -> None:
        """Remove a file, or a directory with all that is in it; a missing path is a success."""
        await self._api.call("POST", self._url("remove"), json=message_of(path, user), repeatable=True)

    async def move(
        self, source: RemotePath, destination: RemotePath, *, user: str | None = None
    ) -> FileEntry:
        """Give a file or directory another path, and return what is there then."""
        message = {"source": remote(source), "destination": remote(destination)}
        if user is not None:
            message["user"] = user
        return _entry(await self._api.call("POST", self._url("move"), json=message))

    def _url(self, *verb: str) -> str:
        return path_of(self._sandbox_id, "files", *verb)

    def tree_url(self, verb: str) -> str:
        """Where directories are read and written; for this package."""
        return self._url("tar", verb)


def _entry(body: bytes) -> FileEntry:
    return FileEntry.parse(Fields("answer", json_of(body)).object("entry"))


async def _framed(form: UploadForm, data: Source) -> AsyncIterator[bytes]:
    yield form.head
    async for chunk in chunks_of(data):
        yield chunk
    yield form.tail
