"""Files of a sandbox. Paths are absolute; the platform acts as the guest's root."""

from __future__ import annotations

import builtins
from collections.abc import AsyncIterator
from typing import Final, Literal, overload

from wrenn.sdk._aio import Source, chunks_of
from wrenn.sdk._async.api import AsyncApi, path_of
from wrenn.sdk._form import UploadForm
from wrenn.sdk._parse import Fields, json_of
from wrenn.sdk.errors import ConflictError, InvalidRequestError, NotFoundError
from wrenn.sdk.types import FileEntry

STREAM_ABOVE_B: Final = 8 * 1024 * 1024
"""Larger contents, and those of unknown size, are streamed."""


class AsyncFiles:
    """`sandbox.files`."""

    def __init__(self, api: AsyncApi, sandbox_id: str) -> None:
        self._api = api
        self._sandbox_id = sandbox_id

    @overload
    async def read(self, path: str, format: Literal["text"] = "text") -> str: ...

    @overload
    async def read(self, path: str, format: Literal["bytes"]) -> bytes: ...

    async def read(self, path: str, format: Literal["text", "bytes"] = "text") -> str | bytes:  # noqa: A002
        """The whole content of a file, as UTF-8 text or as bytes. For large files there is `read_stream`.

        Raises:
            NotFoundError: there is no such file.
            InvalidRequestError: `text` was asked for and the file is not UTF-8.
        """
        body = b"".join([chunk async for chunk in self.read_stream(path)])
        if format == "bytes":
            return body
        try:
            return body.decode()
        except UnicodeDecodeError as error:
            raise InvalidRequestError(f"{path} is not UTF-8 text: read it with format='bytes'.") from error

    async def read_stream(self, path: str) -> AsyncIterator[bytes]:
        """The content of a file in chunks, as they arrive.

        Raises:
            ConnectionFailedError: the content broke off before its end.
        """
        async for chunk in self._api.download(self._url("stream", "read"), {"path": path}):
            yield chunk

    async def write(self, path: str, data: Source) -> None:
        """Write a file from text, bytes, a binary file object or an iterator of bytes.

        Parents are made, an existing file is replaced. Not repeated when the connection breaks: write again.
        """
        if isinstance(data, str):
            data = data.encode()
        form = UploadForm(path)
        if isinstance(data, bytes) and len(data) <= STREAM_ABOVE_B:
            await self._api.call(
                "POST",
                self._url("write"),
                headers={"Content-Type": form.content_type},
                content=form.head + data + form.tail,
            )
        else:
            await self._api.upload(
                self._url("stream", "write"), _framed(form, data), content_type=form.content_type
            )

    async def list(self, path: str, depth: int = 1) -> builtins.list[FileEntry]:
        """What is in a directory, down to `depth` levels."""
        if depth < 1:
            raise InvalidRequestError(f"depth must be at least 1, not {depth}.")
        body = await self._api.call(
            "POST", self._url("list"), json={"path": path, "depth": depth}, repeatable=True
        )
        return [
            FileEntry.parse(fields)
            for fields in Fields("list", json_of(body)).objects("entries", "file entry")
        ]

    async def stat(self, path: str) -> FileEntry:
        """What is known about one path.

        Raises:
            NotFoundError: there is nothing.
        """
        return _entry(await self._api.call("POST", self._url("stat"), json={"path": path}, repeatable=True))

    async def exists(self, path: str) -> bool:
        """True for a file, directory or link."""
        try:
            await self.stat(path)
        except NotFoundError:
            return False
        return True

    async def make_dir(self, path: str) -> bool:
        """Make a directory and its parents; False when it is there already."""
        try:
            await self._api.call("POST", self._url("mkdir"), json={"path": path})
        except ConflictError as error:
            if error.code != "conflict":
                raise
            return False
        return True

    async def remove(self, path: str) -> None:
        """Remove a file, or a directory with all that is in it; a missing path is a success."""
        await self._api.call("POST", self._url("remove"), json={"path": path}, repeatable=True)

    async def move(self, source: str, destination: str) -> FileEntry:
        """Give a file or directory another path, and return what is there then."""
        message = {"source": source, "destination": destination}
        return _entry(await self._api.call("POST", self._url("move"), json=message))

    def _url(self, *verb: str) -> str:
        return path_of(self._sandbox_id, "files", *verb)


def _entry(body: bytes) -> FileEntry:
    return FileEntry.parse(Fields("answer", json_of(body)).object("entry"))


async def _framed(form: UploadForm, data: Source) -> AsyncIterator[bytes]:
    yield form.head
    async for chunk in chunks_of(data):
        yield chunk
    yield form.tail
