"""Serves guest files over plain HTTP. Contents and archives are streamed, never buffered whole; changes are JSON lines.

`GET` and `PUT /sandboxes/{id}/files` and `…/files/tar`, `GET …/files/watch`; rules in docs/design/host-api.md.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, MutableMapping
from contextlib import AbstractAsyncContextManager, aclosing
from typing import Any, Final
from urllib.parse import parse_qs

from wrenn.agent.rpc.internal_errors import hiding_internal_errors
from wrenn.agent.sandboxes import GuestStream, Sandboxes
from wrenn.base.errors import Cancelled, InvalidRequest, NotFound, WrennError
from wrenn.base.ids import SandboxId
from wrenn.guest import Download, FileEvent, Part, TreeReading, TreeWriting, WriteOptions, watch
from wrenn.protocol.host.errors import ERROR_CODE_HEADER
from wrenn.relay import CallerDisconnected, cancel_on_disconnect

_log = logging.getLogger(__name__)

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]

PREFIX: Final = "/sandboxes/"


class FileStreams:
    """ASGI application for file transfers and watches below `PREFIX`."""

    def __init__(self, sandboxes: Sandboxes) -> None:
        self._sandboxes = sandboxes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one transfer."""
        started = False

        async def send_noting(message: Message) -> None:
            nonlocal started
            started = True
            await send(message)

        try:
            with hiding_internal_errors("transfer failed", CallerDisconnected):
                await self._serve(scope, receive, send_noting)
        except CallerDisconnected:
            return
        except WrennError as error:
            failure = error
        else:
            return
        if started:
            # After the status line, an error can only be signalled by leaving out the last chunk.
            raise ConnectionResetError("transfer aborted") from failure
        await _send_error(send, failure)

    async def _serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        text_id, _, kind = scope["path"].removeprefix(PREFIX).partition("/")
        sandbox_id = SandboxId.parse(text_id)
        query = _Query(scope["query_string"])
        match scope["method"], kind:
            case "GET", "files":
                part = Part(_header(scope, b"range"), _header(scope, b"if-range"))
                async with self._sandboxes.use(sandbox_id) as sandbox:
                    await _download(sandbox.files.read(query.path, user=query.user, part=part), receive, send)
            case "PUT", "files":
                options = WriteOptions(query["mode"], query["owner"], query["atomic"] == "true")
                async with self._sandboxes.use(sandbox_id) as sandbox:
                    await sandbox.files.write(query.path, _body(receive), user=query.user, options=options)
                    await _done(send)
            case "GET", "files/tar":
                reading = TreeReading(query["entry_name"], query["one_file_system"] == "true")
                async with self._sandboxes.use(sandbox_id) as sandbox:
                    tree = sandbox.files.read_tree(query.path, user=query.user, reading=reading)
                    await _download(tree, receive, send)
            case "PUT", "files/tar":
                writing = TreeWriting(query["owner"], query["mode"], query["keep_owners"] == "true")
                async with self._sandboxes.use(sandbox_id) as sandbox:
                    await sandbox.files.write_tree(
                        query.path, _body(receive), user=query.user, writing=writing
                    )
                    await _done(send)
            case "GET", "files/watch":
                await receive()  # the empty body
                # The server reports a disconnect only to handlers that receive.
                async with cancel_on_disconnect(receive, after=_now()):
                    await self._watch(sandbox_id, query, send)
            case _, "files" | "files/tar" | "files/watch":
                raise InvalidRequest("Files are read and watched with GET, and written with PUT.")
            case _:
                raise NotFound("No such path.")

    async def _watch(self, sandbox_id: SandboxId, query: _Query, send: Send) -> None:
        """Stream changes as JSON lines. An error after the first line is sent as the last line."""
        started = False
        try:
            async with (
                self._sandboxes.open_stream(sandbox_id) as stream,
                aclosing(_events(stream, query)) as events,
            ):
                # A watch does not count as activity, and it does not end by itself.
                stream.mark_open(is_finite=False)
                async for event in events:
                    if not started:
                        started = True
                        headers = [(b"content-type", b"application/x-ndjson")]
                        await send({"type": "http.response.start", "status": 200, "headers": headers})
                    await _send_line(send, {"kind": event.kind, "name": event.name})
        except WrennError as error:
            if not started:
                raise
            await _send_line(send, {"kind": "error", "code": error.code, "message": error.message})
        await send({"type": "http.response.body", "body": b""})


class _Query:
    """The parsed query string."""

    def __init__(self, query_string: bytes) -> None:
        try:
            self._values = parse_qs(
                query_string.decode("ascii"), keep_blank_values=True, errors="strict", max_num_fields=16
            )
        except ValueError as error:
            raise InvalidRequest("The query cannot be read.") from error
        self.path = self["path"]
        self.user = self["user"] or "root"
        if not self.path:
            raise InvalidRequest("The query needs a path.")

    def __getitem__(self, name: str) -> str:
        return self._values.get(name, [""])[0]


def _events(stream: GuestStream, query: _Query) -> AsyncGenerator[FileEvent]:
    return watch(stream.guest, query.path, recursive=query["recursive"] == "true", user=query.user)


def _header(scope: Scope, name: bytes) -> str:
    return next((value.decode("latin-1") for key, value in scope["headers"] if key == name), "")


async def _download(opening: AbstractAsyncContextManager[Download], receive: Receive, send: Send) -> None:
    await receive()  # the empty body; the next message is the disconnect of the caller
    async with cancel_on_disconnect(receive, after=_now()), opening as download:
        headers = [(b"content-type", b"application/octet-stream")]
        if download.size_b is not None:
            headers.append((b"content-length", str(download.size_b).encode()))
        if download.content_range:
            headers.append((b"content-range", download.content_range.encode()))
        if download.etag:
            headers.append((b"etag", download.etag.encode()))
        await send({"type": "http.response.start", "status": download.status, "headers": headers})
        async for chunk in download.chunks:
            await send({"type": "http.response.body", "body": chunk, "more_body": True})
    await send({"type": "http.response.body", "body": b""})


def _now() -> asyncio.Event:
    event = asyncio.Event()
    event.set()
    return event


async def _body(receive: Receive) -> AsyncIterator[bytes]:
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise Cancelled("The control plane ended the transfer early.")
        if chunk := message.get("body"):
            yield chunk
        if not message.get("more_body"):
            return


async def _done(send: Send) -> None:
    await send({"type": "http.response.start", "status": 204, "headers": []})
    await send({"type": "http.response.body", "body": b""})


async def _send_line(send: Send, line: dict[str, str]) -> None:
    await send({"type": "http.response.body", "body": json.dumps(line).encode() + b"\n", "more_body": True})


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
