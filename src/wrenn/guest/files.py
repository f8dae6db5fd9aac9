"""Files of the guest: contents and whole directories as streams, everything else by RPC; `watch.py` has the events."""

from __future__ import annotations

import re
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, Final

import aiohttp
from yarl import URL

from wrenn.base import errors as e
from wrenn.guest.connect import GuestConnection, read_bounded, unreachable
from wrenn.guest.values import FEW_FIELDS, guest_text, json_object_or_empty
from wrenn.protocol.guest import filesystem_pb as pb

_CALL_TIMEOUT_S: Final = 30.0
_IDLE_TIMEOUT_S: Final = 60.0
"""A transfer that moves no byte for this long is broken."""
ENTRIES_LIMIT: Final = 20_000
"""Of one list; the guest agent has the same."""
_ENTRY_FIELDS: Final = 20
"""What an entry has at most, but for user-defined attributes of files."""
_ERROR_LIMIT_B: Final = 64 * 1024
_READ_AHEAD_B: Final = 256 * 1024
"""Up to twice as much is held. It is handed on in the pieces that came: putting them together costs a tenth of the time."""

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
    """A file being read.

    Attributes:
        status: 200: all of it; 206: the part that was asked for; 416: it has no such part.
        size_b: bytes that come, when the guest told it.
        content_range: which part it is; of 416, how much there is.
        etag: another one after every change of the file; empty when it has none.
    """

    status: int
    size_b: int | None
    content_range: str
    etag: str
    chunks: AsyncIterator[bytes]


@dataclass(frozen=True, slots=True)
class Part:
    """Which part of a file to read, as the headers `Range` and `If-Range` say it."""

    range: str = ""
    if_range: str = ""


@dataclass(frozen=True, slots=True)
class WriteOptions:
    """How a file is written; empty: as usual. `mode` in octal digits, `owner` as `user` or `user:group`."""

    mode: str = ""
    owner: str = ""
    atomic: bool = False


WHOLE: Final = Part()
AS_USUAL: Final = WriteOptions()


class Files:
    """Files in one guest. Paths are the guest's own; all permission checks happen there, as the named user."""

    def __init__(self, guest: GuestConnection) -> None:
        self._guest = guest

    @asynccontextmanager
    async def read(self, path: str, *, user: str, part: Part = WHOLE) -> AsyncGenerator[Download]:
        """Open a file for reading, all of it or a part.

        Raises:
            NotFound, Forbidden, InvalidRequest (a directory), Unavailable.
        """
        headers = {"Range": part.range, "If-Range": part.if_range}
        wanted = {name: value for name, value in headers.items() if value}
        statuses = (200, 206, 416) if part.range else (200,)
        async with self._opened("files", {"path": path}, user, wanted, statuses) as download:
            yield download

    @asynccontextmanager
    async def read_tree(self, path: str, *, user: str) -> AsyncGenerator[Download]:
        """Open a directory for reading, as a tar archive. One that cannot be read to its end breaks off.

        Raises:
            NotFound, Forbidden, InvalidRequest (no directory), Unavailable.
        """
        async with self._opened("files/tar", {"path": path}, user, {}, (200,)) as download:
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
        self, path: str, chunks: AsyncIterator[bytes], *, user: str, options: WriteOptions = AS_USUAL
    ) -> None:
        """Write a file, its parents made when missing. An error of `chunks` cuts the transfer.

        Raises:
            Forbidden, InvalidRequest (a directory), StorageFull (of the guest), Unavailable.
        """
        query = {"path": path, "mode": options.mode, "owner": options.owner}
        query["atomic"] = "true" if options.atomic else ""
        await self._send("files", query, chunks, user, "application/octet-stream")

    async def write_tree(
        self, path: str, chunks: AsyncIterator[bytes], *, user: str, owner: str = ""
    ) -> None:
        """Unpack a tar archive below a directory, which is made when missing. What came before an error stays.

        Raises:
            Forbidden, InvalidRequest (no archive, or one that leads elsewhere), StorageFull (of the guest), Unavailable.
        """
        await self._send("files/tar", {"path": path, "owner": owner}, chunks, user, "application/x-tar")

    async def _send(
        self, endpoint: str, query: dict[str, str], chunks: AsyncIterator[bytes], user: str, content_type: str
    ) -> None:
        headers = {**self._headers(user), "Content-Type": content_type}
        try:
            async with self._guest.session.post(
                self._url(endpoint, query, user),
                data=chunks,
                headers=headers,
                timeout=_transfer_timeout(),
                allow_redirects=False,
            ) as response:
                if response.status not in (200, 204):
                    raise await _error_of(response)
                await read_bounded(response, _ERROR_LIMIT_B)
        except (aiohttp.ClientError, TimeoutError) as error:
            raise unreachable(error) from error

    def _url(self, endpoint: str, query: dict[str, str], user: str) -> URL:
        given = {name: value for name, value in query.items() if value}
        return URL(f"{self._guest.base_url}/{endpoint}").with_query({**given, "username": user})

    def _headers(self, user: str) -> dict[str, str]:
        return {**self._guest.headers(user), "Accept-Encoding": "identity"}

    async def stat(self, path: str, *, user: str) -> pb.EntryInfo:
        """One entry; a link is reported as itself. Raises NotFound."""
        return (await self._call("Stat", pb.StatRequest(path=path), pb.StatResponse, user)).entry

    async def list(self, path: str, *, depth: int, user: str) -> list[pb.EntryInfo]:
        """The entries below a directory, `depth` levels deep. Raises NotFound, InvalidRequest (no directory)."""
        request = pb.ListDirRequest(path=path, depth=depth)
        most_fields = ENTRIES_LIMIT * _ENTRY_FIELDS
        answer = await self._call("ListDir", request, pb.ListDirResponse, user, most_fields=most_fields)
        if len(answer.entries) > ENTRIES_LIMIT:
            raise e.AgentFailure(f"The sandbox told of more than {ENTRIES_LIMIT} files.")
        return list(answer.entries)

    async def make_dir(self, path: str, *, user: str) -> pb.EntryInfo:
        """Make a directory and its parents. Raises Conflict when it exists."""
        return (await self._call("MakeDir", pb.MakeDirRequest(path=path), pb.MakeDirResponse, user)).entry

    async def move(self, source: str, destination: str, *, user: str) -> pb.EntryInfo:
        """Rename. Raises NotFound."""
        request = pb.MoveRequest(source=source, destination=destination)
        return (await self._call("Move", request, pb.MoveResponse, user)).entry

    async def remove(self, path: str, *, user: str) -> None:
        """Remove a file, or a directory with all below it. A missing path is fine."""
        await self._call("Remove", pb.RemoveRequest(path=path), pb.RemoveResponse, user)

    async def _call(
        self, method: str, request: Any, answer: type[Any], user: str, *, most_fields: int = FEW_FIELDS
    ) -> Any:
        return await self._guest.unary(
            f"filesystem.Filesystem/{method}",
            request,
            answer,
            user=user,
            timeout_s=_CALL_TIMEOUT_S,
            most_fields=most_fields,
        )


def _checked(pattern: re.Pattern[str], value: str | None) -> str:
    """A header of the guest's, if it is what it must be."""
    return value if value is not None and pattern.fullmatch(value) else ""


def _transfer_timeout() -> aiohttp.ClientTimeout:
    return aiohttp.ClientTimeout(total=None, sock_connect=5, sock_read=_IDLE_TIMEOUT_S)


async def _error_of(response: aiohttp.ClientResponse) -> e.WrennError:
    body = await read_bounded(response, _ERROR_LIMIT_B)
    text = guest_text(json_object_or_empty(body).get("message"))
    text = text or f"The sandbox answered with status {response.status}."
    return _STATUS.get(response.status, e.AgentFailure)(text)
