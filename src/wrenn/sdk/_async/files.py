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
from wrenn.sdk.types import DownloadLink, FileEntry

STREAM_ABOVE_B: Final = 8 * 1024 * 1024
"""Larger contents, and those of unknown size, are streamed."""


class AsyncFiles:
    """`sandbox.files`.

    A path is a str, or bytes if it is not UTF-8; results of `os.fsdecode` and `FileEntry.path` are accepted
    too.
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
        """Read a file, as UTF-8 text or as bytes. For large files use `read_stream`.

        With `offset` and `length` only that range is read; a range beyond the end of the file is cut.

        Raises:
            NotFoundError: no such file.
            InvalidRequestError: `text` was requested and the content is not UTF-8.
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
        """Read a file in chunks, as they arrive.

        If the connection breaks, reading resumes at the same position, provided that the file has not
        changed; `on_resume` is then called with the position.

        Raises:
            ConnectionFailedError: the connection broke and reading could not be resumed.
            ConflictError: the connection broke and the file has changed.
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
        """Write a file from a str, bytes or an object with a buffer, a local file given as `Path`, a binary file object, or an iterator of bytes.

        Parent directories are created, an existing file is replaced. `mode`: its permission bits, e.g.
        `0o755`; `owner`: `"user"` or `"user:group"`. With `atomic` the file is replaced completely or not at
        all: the default for content that is sent in pieces (files, iterators, more than 8 MiB), so that a
        failed transfer leaves the old file unchanged. An atomic write refuses devices and other special
        files; `atomic=False` writes into them. Not retried if the connection breaks: write again.
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
        """Copy a local file or directory to `path`, with its modes. A file is replaced completely or not at all, as in `write`.

        The contents of a directory are copied into `path`: files are replaced, directories merged; links,
        empty directories and times are preserved, sockets skipped. `on_progress` is called with the bytes
        sent and, for a file, its size.

        Raises:
            InvalidRequestError: no such local file or directory.
        """
        await copying.upload(
            self, self._api, source, path, owner=owner, atomic=atomic, user=user, on_progress=on_progress
        )

    async def download_link(
        self, path: RemotePath, *, archive: bool = False, user: str | None = None
    ) -> DownloadLink:
        """Make a link with which a browser downloads a file once, without a key. It is valid for a minute.

        With `archive` a directory is downloaded as a tar archive.

        Raises:
            NotFoundError: no such file or directory.
            InvalidStateError: the sandbox does not run.
        """
        body = await self._api.call(
            "POST",
            self._url("download-link"),
            json={**message_of(path, user), "archive": archive},
        )
        return DownloadLink.parse(Fields("download link", json_of(body)))

    async def download(
        self,
        path: RemotePath,
        target: str | os.PathLike[str],
        *,
        user: str | None = None,
        on_progress: Progress | None = None,
        on_resume: Resumed | None = None,
    ) -> None:
        """Copy a file or directory of the sandbox to the local path `target`.

        A file appears completely or not at all, a directory too, unless `target` exists: then files are
        replaced and directories merged. Modes (without setuid), links and times are preserved, owners are
        not; sockets and devices are skipped. `on_progress` is called with the bytes received and, for a file,
        its size. The transfer of a file is resumed after a broken connection, as by `read_stream`.

        Raises:
            NotFoundError: no such file or directory in the sandbox.
            UnexpectedAnswerError: the sandbox sent an archive that is malformed or unsafe.
        """
        await copying.download(
            self, self._api, path, target, user=user, on_progress=on_progress, on_resume=on_resume
        )

    async def watch(
        self, path: RemotePath, *, recursive: bool = False, user: str | None = None
    ) -> AsyncWatch:
        """Watch a directory; no change is missed after this has returned. Close the watch when you are done.

        Watching does not count as use of the sandbox: its `timeout_sec` continues to run.

        Raises:
            NotFoundError: no such directory.
        """
        return await open_watch(self._api, self._url("watch"), message_of(path, user), recursive=recursive)

    async def list(
        self, path: RemotePath, depth: int = 1, *, user: str | None = None
    ) -> builtins.list[FileEntry]:
        """List a directory, down to `depth` levels."""
        if depth < 1:
            raise InvalidRequestError(f"depth must be at least 1, not {depth}.")
        message = {**message_of(path, user), "depth": depth}
        body = await self._api.call("POST", self._url("list"), json=message, repeatable=True)
        return [
            FileEntry.parse(fields)
            for fields in Fields("list", json_of(body)).objects("entries", "file entry")
        ]

    async def stat(self, path: RemotePath, *, user: str | None = None) -> FileEntry:
        """Return the metadata of a file, directory or link.

        Raises:
            NotFoundError: the path does not exist.
        """
        return _entry(
            await self._api.call("POST", self._url("stat"), json=message_of(path, user), repeatable=True)
        )

    async def exists(self, path: RemotePath, *, user: str | None = None) -> bool:
        """Whether a file, directory or link exists at the path, including a broken link."""
        try:
            await self.stat(path, user=user)
        except NotFoundError:
            return False
        return True

    async def make_dir(self, path: RemotePath, *, user: str | None = None) -> bool:
        """Create a directory and its parents; returns False if it already exists."""
        try:
            await self._api.call("POST", self._url("mkdir"), json=message_of(path, user))
        except ConflictError as error:
            if error.code != "conflict":
                raise
            return False
        return True

    async def remove(self, path: RemotePath, *, user: str | None = None) -> None:
        """Remove a file, or a directory with everything in it. A missing path is ignored."""
        await self._api.call("POST", self._url("remove"), json=message_of(path, user), repeatable=True)

    async def move(
        self, source: RemotePath, destination: RemotePath, *, user: str | None = None
    ) -> FileEntry:
        """Rename a file or directory, and return its new entry."""
        message = {"source": remote(source), "destination": remote(destination)}
        if user is not None:
            message["user"] = user
        return _entry(await self._api.call("POST", self._url("move"), json=message))

    def _url(self, *verb: str) -> str:
        return path_of(self._sandbox_id, "files", *verb)

    def tree_url(self, verb: str) -> str:
        """Return the URL for reading or writing directories; for use within this package."""
        return self._url("tar", verb)


def _entry(body: bytes) -> FileEntry:
    return FileEntry.parse(Fields("answer", json_of(body)).object("entry"))


async def _framed(form: UploadForm, data: Source) -> AsyncIterator[bytes]:
    yield form.head
    async for chunk in chunks_of(data):
        yield chunk
    yield form.tail
