"""File operations in the guest: contents and directory trees as HTTP streams, everything else by RPC. `watch.py` has the events."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, Final

import aiohttp
from yarl import URL

from wrenn.base import errors as e
from wrenn.guest.connect import GuestConnection, unreachable
from wrenn.guest.values import DEFAULT_FIELD_LIMIT, guest_text, json_object_or_empty
from wrenn.protocol.guest import filesystem_pb as pb
from wrenn.relay import read_bounded

_CALL_TIMEOUT_S: Final = 30.0
_IDLE_TIMEOUT_S: Final = 60.0
"""A transfer fails if the guest sends nothing, or takes nothing, for this long."""
_CONNECTION_LIMIT_S: Final = 30.0
"""All transfers of a sandbox share a limited number of connections: so long one waits for its turn."""
ENTRIES_LIMIT: Final = 20_000
"""Entries in one list; the guest agent has the same limit."""
_ENTRY_FIELDS: Final = 20
"""Most fields of an entry, not counting extended attributes of the file."""
_ERROR_LIMIT_B: Final = 64 * 1024
_READ_AHEAD_B: Final = 256 * 1024
"""Up to twice as much is buffered. Pieces are forwarded as they arrive: joining them would cost a tenth of
the transfer's time."""

_CONTENT_RANGE: Final = re.compile(r"bytes (\d{1,19}-\d{1,19}|\*)/\d{1,19}")
_ETAG: Final = re.compile(r'"[\x21\x23-\x7e]{1,128}"')

_STATUS: Final[dict[int, type[e.WrennError]]] = {
    400: e.InvalidRequest,
    401: e.InvalidRequest,  # an unknown user name
    403: e.Forbidden,
    404: e.NotFound,
    409: e.Conflict,
    413: e.TooLarge,
    416: e.InvalidRequest,
    503: e.Unavailable,
    507: e.StorageFull,
}


@dataclass(frozen=True, slots=True)
class Download:
    """A file that is being read.

    Attributes:
        status: 200: the whole file; 206: the requested range; 416: the range cannot be satisfied.
        size_b: length of the response body, if the guest sent it.
        content_range: the range that is sent; for 416, the size of the file.
        etag: changes whenever the file does; empty if the file has none.
    """

    status: int
    size_b: int | None
    content_range: str
    etag: str
    chunks: AsyncIterator[bytes]


@dataclass(frozen=True, slots=True)
class Part:
    """The range of a file to read, as in the headers `Range` and `If-Range`."""

    range: str = ""
    if_range: str = ""


@dataclass(frozen=True, slots=True)
class WriteOptions:
    """How a file is written; empty values mean the default. `mode` in octal digits, `owner` as `user` or `user:group`."""

    mode: str = ""
    owner: str = ""
    atomic: bool = False


@dataclass(frozen=True, slots=True)
class TreeReading:
    """What of a tree is read.

    Attributes:
        entry_name: the path is a file, which gets this name in the archive.
        one_file_system: of directories on which other file systems are mounted, only the directory.
    """

    entry_name: str = ""
    one_file_system: bool = False


@dataclass(frozen=True, slots=True)
class TreeWriting:
    """How a tree is written.

    Attributes:
        owner: `user` or `user:group`, of all entries.
        mode: octal digits, of all entries but links.
        keep_owners: without `owner`, entries get the owners that the archive says.
    """

    owner: str = ""
    mode: str = ""
    keep_owners: bool = False


WHOLE_FILE: Final = Part()
WHOLE_TREE: Final = TreeReading()
DEFAULT_WRITE: Final = WriteOptions()
DEFAULT_TREE_WRITE: Final = TreeWriting()


class Files:
    """Files in one guest. Paths are absolute in the guest, which checks the permissions of the named user."""

    def __init__(self, guest: GuestConnection) -> None:
        self._guest = guest

    @asynccontextmanager
    async def read(self, path: str, *, user: str, part: Part = WHOLE_FILE) -> AsyncGenerator[Download]:
        """Open a file, or a range of it, for reading.

        Raises:
            NotFound, Forbidden, Unavailable: the file cannot be read.
            InvalidRequest: it is a directory.
        """
        headers = {"Range": part.range, "If-Range": part.if_range}
        wanted = {name: value for name, value in headers.items() if value}
        statuses = (200, 206, 416) if part.range else (200,)
        async with self._opened("files", {"path": path}, user, wanted, statuses) as download:
            yield download

    @asynccontextmanager
    async def read_tree(
        self, path: str, *, user: str, reading: TreeReading = WHOLE_TREE
    ) -> AsyncGenerator[Download]:
        """Read a directory, or one file, as a tar archive. If it cannot be read to the end, the stream ends with an error.

        Raises:
            NotFound, Forbidden, Unavailable: the directory cannot be read.
            InvalidRequest: it is not a directory, or not a file if an entry is named.
        """
        query = {
            "path": path,
            "entry_name": reading.entry_name,
            "one_file_system": "true" if reading.one_file_system else "",
        }
        async with self._opened("files/tar", query, user, {}, (200,)) as download:
            yield download

    @asynccontextmanager
    async def _opened(
        self,
        endpoint: str,
        query: dict[str, str],
        user: str,
        headers: dict[str, str],
        statuses: tuple[int, ...],
    ) -> AsyncGenerator[Download]:
        try:
            async with self._guest.session.get(
                self._url(endpoint, query, user),
                headers=self._headers(user) | headers,
                timeout=_transfer_timeout(),
                allow_redirects=False,
                read_bufsize=_READ_AHEAD_B,
            ) as response:
                if response.status not in statuses:
                    raise await _error_of(response)
                yield Download(
                    response.status,
                    response.content_length,
                    _checked(_CONTENT_RANGE, response.headers.get("Content-Range")),
                    _checked(_ETAG, response.headers.get("ETag")),
                    response.content.iter_any(),
                )
        except (aiohttp.ClientError, TimeoutError) as error:
            raise unreachable(error) from error

    async def write(
        self, path: str, chunks: AsyncIterator[bytes], *, user: str, options: WriteOptions = DEFAULT_WRITE
    ) -> None:
        """Write a file and create missing parent directories. If `chunks` raises, the transfer is aborted.

        Raises:
            Forbidden, Unavailable: the file cannot be written.
            InvalidRequest: the path is a directory.
            StorageFull: the guest's disk is full.
        """
        query = {"path": path, "mode": options.mode, "owner": options.owner}
        query["atomic"] = "true" if options.atomic else ""
        await self._send("files", query, chunks, user, "application/octet-stream")

    async def write_tree(
        self,
        path: str,
        chunks: AsyncIterator[bytes],
        *,
        user: str,
        writing: TreeWriting = DEFAULT_TREE_WRITE,
    ) -> None:
        """Unpack a tar archive into a directory, which is created if missing. Entries written before an error remain.

        Raises:
            Forbidden, Unavailable: the directory cannot be written.
            InvalidRequest: not a tar archive, or an entry is outside the directory.
            StorageFull: the guest's disk is full.
        """
        query = {
            "path": path,
            "owner": writing.owner,
            "mode": writing.mode,
            "keep_owners": "true" if writing.keep_owners else "",
        }
        await self._send("files/tar", query, chunks, user, "application/x-tar")

    async def _send(
        self, endpoint: str, query: dict[str, str], chunks: AsyncIterator[bytes], user: str, content_type: str
    ) -> None:
        headers = {**self._headers(user), "Content-Type": content_type}
        loop = asyncio.get_running_loop()

        async def followed(limit: asyncio.Timeout) -> AsyncIterator[bytes]:
            # The guest has its time for each piece. How long the sender of the content may take is limited where that is received.
            limit.reschedule(None)
            async for chunk in chunks:
                limit.reschedule(loop.time() + _IDLE_TIMEOUT_S)
                yield chunk
                limit.reschedule(None)
            # What is in buffers is still to be taken, and then answered.
            limit.reschedule(loop.time() + 2 * _IDLE_TIMEOUT_S)

        try:
            async with (
                asyncio.timeout(None) as limit,
                self._guest.session.post(
                    self._url(endpoint, query, user),
                    data=followed(limit),
                    headers=headers,
                    timeout=_transfer_timeout(),
                    allow_redirects=False,
                ) as response,
            ):
                if response.status not in (200, 204):
                    raise await _error_of(response)
                await read_bounded(response, _ERROR_LIMIT_B, sender="sandbox")
        except (aiohttp.ClientError, TimeoutError) as error:
            raise unreachable(error) from error

    def _url(self, endpoint: str, query: dict[str, str], user: str) -> URL:
        given = {name: value for name, value in query.items() if value}
        return URL(f"{self._guest.base_url}/{endpoint}").with_query({**given, "username": user})

    def _headers(self, user: str) -> dict[str, str]:
        return {**self._guest.headers(user), "Accept-Encoding": "identity"}

    async def stat(self, path: str, *, user: str) -> pb.EntryInfo:
        """Return one entry; a symbolic link is not followed. Raises NotFound."""
        return (await self._call("Stat", pb.StatRequest(path=path), pb.StatResponse, user)).entry

    async def list(self, path: str, *, depth: int, user: str) -> list[pb.EntryInfo]:
        """List the entries of a directory, `depth` levels deep. Raises NotFound, or InvalidRequest if it is not a directory."""
        request = pb.ListDirRequest(path=path, depth=depth)
        field_limit = ENTRIES_LIMIT * _ENTRY_FIELDS
        answer = await self._call("ListDir", request, pb.ListDirResponse, user, field_limit=field_limit)
        if len(answer.entries) > ENTRIES_LIMIT:
            raise e.AgentFailure(f"The sandbox reported more than {ENTRIES_LIMIT} files.")
        return list(answer.entries)

    async def make_dir(self, path: str, *, user: str) -> pb.EntryInfo:
        """Create a directory and its parents. Raises Conflict if it exists."""
        return (await self._call("MakeDir", pb.MakeDirRequest(path=path), pb.MakeDirResponse, user)).entry

    async def move(self, source: str, destination: str, *, user: str) -> pb.EntryInfo:
        """Rename a file or directory. Raises NotFound."""
        request = pb.MoveRequest(source=source, destination=destination)
        return (await self._call("Move", request, pb.MoveResponse, user)).entry

    async def remove(self, path: str, *, user: str) -> None:
        """Remove a file, or a directory with everything in it. A missing path is ignored."""
        await self._call("Remove", pb.RemoveRequest(path=path), pb.RemoveResponse, user)

    async def _call(
        self,
        method: str,
        request: Any,
        answer: type[Any],
        user: str,
        *,
        field_limit: int = DEFAULT_FIELD_LIMIT,
    ) -> Any:
        return await self._guest.unary(
            f"filesystem.Filesystem/{method}",
            request,
            answer,
            user=user,
            timeout_s=_CALL_TIMEOUT_S,
            field_limit=field_limit,
        )


def _checked(pattern: re.Pattern[str], value: str | None) -> str:
    """Return a header of the guest's response if it has the expected form, otherwise an empty text."""
    return value if value is not None and pattern.fullmatch(value) else ""


def _transfer_timeout() -> aiohttp.ClientTimeout:
    return aiohttp.ClientTimeout(
        total=None, connect=_CONNECTION_LIMIT_S, sock_connect=5, sock_read=_IDLE_TIMEOUT_S
    )


async def _error_of(response: aiohttp.ClientResponse) -> e.WrennError:
    body = await read_bounded(response, _ERROR_LIMIT_B, sender="sandbox")
    text = guest_text(json_object_or_empty(body).get("message"))
    text = text or f"The sandbox answered with status {response.status}."
    return _STATUS.get(response.status, e.AgentFailure)(text)
