"""Reads a file, or a range of it, and resumes after broken connections."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from typing import TYPE_CHECKING, Final

from wrenn.sdk._aio import sleep
from wrenn.sdk._async.api import AsyncApi
from wrenn.sdk._paths import Resumed
from wrenn.sdk._retry import PAUSES_S, jittered
from wrenn.sdk.errors import ConflictError, ConnectionFailedError, InvalidRequestError

if TYPE_CHECKING:
    from wrenn.sdk._http import AsyncStream

_OUTSIDE: Final = 416
_PART: Final = 206


async def chunks(
    api: AsyncApi,
    url: str,
    message: Mapping[str, str],
    *,
    offset: int,
    length: int | None,
    on_resume: Resumed | None,
) -> AsyncIterator[bytes]:
    """Yield the bytes from `offset` on, at most `length`.

    A broken connection is resumed as long as each new one transfers something, or until the delays are used
    up.

    Raises:
        ConnectionFailedError: reading could not be resumed.
        ConflictError: the file has changed meanwhile.
    """
    if offset < 0 or (length is not None and length < 0):
        raise InvalidRequestError("offset and length must not be below 0.")
    end = None if length is None else offset + length
    at, tag = offset, ""
    pauses = iter(PAUSES_S)
    while end is None or at < end:
        headers = {"Range": f"bytes={at}-{'' if end is None else end - 1}"} if at or end is not None else {}
        if tag:
            headers["If-Range"] = tag
        stream: AsyncStream | None = None
        try:
            stream = await api.open("POST", url, json=message, headers=headers)
            if tag and at > offset and stream.status != _PART:
                raise ConflictError("The file has changed while it was read: read it again.")
            # A file without a size is always sent from its beginning, whatever range was requested.
            skip = at if headers and stream.status != _PART else 0
            tag = tag or stream.header("etag")
            async for chunk in stream.chunks():
                piece = chunk[skip:]
                skip -= len(chunk) - len(piece)
                piece = piece if end is None else piece[: end - at]
                at += len(piece)
                if piece:
                    pauses = iter(PAUSES_S)
                    yield piece
            return
        except InvalidRequestError as error:
            if error.status == _OUTSIDE:
                return
            raise
        except ConnectionFailedError:
            pause_s = next(pauses, None)
            if not tag or pause_s is None:
                raise
        finally:
            if stream is not None:
                await stream.close()
        if on_resume is not None:
            on_resume(at)
        await sleep(jittered(pause_s))
