"""File contents as plain HTTP: streamed through, never held whole.

`GET /sandboxes/{id}/files?path=&user=` and `PUT` of the same; rules in docs/design/host-api.md.
"""

from __future__ import annotations

import json
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, MutableMapping
from typing import Any, Final
from urllib.parse import parse_qs

from wrenn.agent.sandboxes import Sandboxes
from wrenn.base.errors import Cancelled, InternalError, InvalidRequest, NotFound, WrennError
from wrenn.base.ids import SandboxId
from wrenn.protocol.host.errors import ERROR_CODE_HEADER

_log = logging.getLogger(__name__)

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]

PREFIX: Final = "/sandboxes/"
_SUFFIX: Final = "/files"


class FileStreams:
    """ASGI application for the paths below `PREFIX`."""

    def __init__(self, sandboxes: Sandboxes) -> None:
        self._sandboxes = sandboxes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one transfer."""
        started = False

        async def send_noting(message: MutableMapping[str, Any]) -> None:
            nonlocal started
            started = True
            await send(message)

        try:
            await self._serve(scope, receive, send_noting)
        except WrennError as error:
            failure = error
        except Exception:  # noqa: BLE001 - as in service.py
            _log.exception("transfer failed")
            failure = InternalError("The host could not carry out the transfer; its log has the reason.")
        else:
            return
        if started:
            # The only way to say "broken off" after the status: end without the last chunk.
            raise ConnectionResetError("transfer broke off") from failure
        await _send_error(send, failure)

    async def _serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        path: str = scope["path"]
        if not path.endswith(_SUFFIX):
            raise NotFound("No such path.")
        sandbox_id = SandboxId.parse(path[len(PREFIX) : -len(_SUFFIX)])
        query = parse_qs(scope["query_string"].decode("ascii"), keep_blank_values=True, errors="strict")
        file, user = query.get("path", [""])[0], query.get("user", [""])[0] or "root"
        if not file:
            raise InvalidRequest("The query needs a path.")
        async with self._sandboxes.use(sandbox_id) as sandbox:
            if scope["method"] == "GET":
                async with sandbox.files.read(file, user=user) as download:
                    headers = [(b"content-type", b"application/octet-stream")]
                    if download.size_b is not None:
                        headers.append((b"content-length", str(download.size_b).encode()))
                    await send({"type": "http.response.start", "status": 200, "headers": headers})
                    async for chunk in download.chunks:
                        await send({"type": "http.response.body", "body": chunk, "more_body": True})
                await send({"type": "http.response.body", "body": b""})
            elif scope["method"] == "PUT":
                await sandbox.files.write(file, _body(receive), user=user)
                await send({"type": "http.response.start", "status": 204, "headers": []})
                await send({"type": "http.response.body", "body": b""})
            else:
                raise InvalidRequest("Files are read with GET and written with PUT.")


async def _body(receive: Receive) -> AsyncIterator[bytes]:
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise Cancelled("The control plane broke the transfer off.")
        if chunk := message.get("body"):
            yield chunk
        if not message.get("more_body"):
            return


async def _send_error(send: Send, error: WrennError) -> None:
    body = json.dumps({"code": error.code, "message": error.message}).encode()
    headers = [
        (b"content-type", b"application/json"),
        (b"content-length", str(len(body)).encode()),
        (ERROR_CODE_HEADER.encode(), error.code.encode()),
        # An upload may have been refused with its body still on the way: the connection cannot be used again.
        (b"connection", b"close"),
    ]
    await send({"type": "http.response.start", "status": error.http_status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
