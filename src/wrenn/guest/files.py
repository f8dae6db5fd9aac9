"""Files of the guest: content as streams, everything else by RPC."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, Final

import aiohttp
from yarl import URL

from wrenn.base import errors as e
from wrenn.guest.connect import GuestConnection, guest_text, read_bounded, unreachable
from wrenn.protocol.guest import filesystem_pb as pb

_CALL_TIMEOUT_S: Final = 30.0
_IDLE_TIMEOUT_S: Final = 60.0
"""A transfer that moves no byte for this long is broken."""
_ERROR_LIMIT_B: Final = 64 * 1024
_CHUNK_B: Final = 256 * 1024
"""What is read ahead and handed on at once: with less, a download is a quarter slower on a busy machine."""

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
    """A file being read: its size when the guest told it, and its bytes."""

    size_b: int | None
    chunks: AsyncIterator[bytes]


class Files:
    """Files in one guest. Paths are the guest's own; all permission checks happen there, as the named user."""

    def __init__(self, guest: GuestConnection) -> None:
        self._guest = guest

    @asynccontextmanager
    async def read(self, path: str, *, user: str) -> AsyncGenerator[Download]:
        """Open a file for reading.

        Raises:
            NotFound, Forbidden, InvalidRequest (a directory), Unavailable.
        """
        try:
            async with self._guest.session.get(
                self._url(path, user),
                headers=self._headers(user),
                timeout=_transfer_timeout(),
                allow_redirects=False,
                read_bufsize=_CHUNK_B,
            ) as response:
                if response.status != 200:
                    raise await _error_of(response)
                yield Download(response.content_length, response.content.iter_chunked(_CHUNK_B))
        except (aiohttp.ClientError, TimeoutError) as error:
            raise unreachable(error) from error

    async def write(self, path: str, chunks: AsyncIterator[bytes], *, user: str) -> None:
        """Write a file in place, its parents made when missing. An error of `chunks` cuts the transfer.

        Raises:
            Forbidden, InvalidRequest (a directory), StorageFull (of the guest), Unavailable.
        """
        headers = {**self._headers(user), "Content-Type": "application/octet-stream"}
        try:
            async with self._guest.session.post(
                self._url(path, user),
                data=chunks,
                headers=headers,
                timeout=_transfer_timeout(),
                allow_redirects=False,
            ) as response:
                if response.status != 200:
                    raise await _error_of(response)
                await read_bounded(response, _ERROR_LIMIT_B)
        except (aiohttp.ClientError, TimeoutError) as error:
            raise unreachable(error) from error

    def _url(self, path: str, user: str) -> URL:
        return URL(f"{self._guest.base_url}/files").with_query(path=path, username=user)

    def _headers(self, user: str) -> dict[str, str]:
        return {**self._guest.headers(user), "Accept-Encoding": "identity"}

    async def stat(self, path: str, *, user: str) -> pb.EntryInfo:
        """One entry; a link is reported as itself. Raises NotFound."""
        return (await self._call("Stat", pb.StatRequest(path=path), pb.StatResponse, user)).entry

    async def list(self, path: str, *, depth: int, user: str) -> list[pb.EntryInfo]:
        """The entries below a directory, `depth` levels deep. Raises NotFound, InvalidRequest (no directory)."""
        request = pb.ListDirRequest(path=path, depth=depth)
        return list((await self._call("ListDir", request, pb.ListDirResponse, user)).entries)

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

    async def _call(self, method: str, request: Any, answer: type[Any], user: str) -> Any:
        return await self._guest.unary(
            f"filesystem.Filesystem/{method}", request, answer, user=user, timeout_s=_CALL_TIMEOUT_S
        )


def _transfer_timeout() -> aiohttp.ClientTimeout:
    return aiohttp.ClientTimeout(total=None, sock_connect=5, sock_read=_IDLE_TIMEOUT_S)


async def _error_of(response: aiohttp.ClientResponse) -> e.WrennError:
    body = await read_bounded(response, _ERROR_LIMIT_B)
    try:
        text = guest_text(json.loads(body)["message"])
    except (ValueError, KeyError, TypeError):
        text = f"The sandbox answered with status {response.status}."
    return _STATUS.get(response.status, e.AgentFailure)(text)
