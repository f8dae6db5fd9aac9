"""Small servers on loopback, which guests of the simulated driver share: they stand for programs in the guest."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager

import websockets
from websockets.asyncio.server import ServerConnection

Handler = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@asynccontextmanager
async def program(handler: Handler) -> AsyncGenerator[int]:
    """A raw TCP server; gives its port."""
    tasks: set[asyncio.Task[None]] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        tasks.add(task)
        try:
            await handler(reader, writer)
        except (ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass
        finally:
            tasks.discard(task)
            writer.transport.abort()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
        for task in list(tasks):
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)


async def read_head(reader: asyncio.StreamReader) -> list[bytes]:
    """The lines of a request's head."""
    return (await reader.readuntil(b"\r\n\r\n")).split(b"\r\n")[:-2]


def answering(answer: bytes, seen: list[list[bytes]] | None = None) -> Handler:
    """A program that answers every request with these bytes; heads go to `seen`."""

    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            head = await read_head(reader)
            if seen is not None:
                seen.append(head)
            writer.write(answer)
            await writer.drain()

    return handler


OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


async def echo_body(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Answers with the body of the request, as it comes."""
    while True:
        head = await read_head(reader)
        named = dict(line.lower().split(b": ", 1) for line in head[1:])
        writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")

        async def reply(piece: bytes) -> None:
            if piece:
                writer.write(b"%x\r\n%s\r\n" % (len(piece), piece))
                await writer.drain()

        if named.get(b"transfer-encoding") == b"chunked":
            while size := int(await reader.readline(), 16):
                await reply(await reader.readexactly(size))
                await reader.readline()
            await reader.readline()
        else:
            left = int(named.get(b"content-length", b"0"))
            while left:
                piece = await reader.read(min(left, 65536))
                if not piece:
                    return
                left -= len(piece)
                await reply(piece)
        writer.write(b"0\r\n\r\n")
        await writer.drain()


@asynccontextmanager
async def socket_program(
    handler: Callable[[ServerConnection], Awaitable[None]], **options: object
) -> AsyncGenerator[int]:
    """A WebSocket server; gives its port."""
    async with websockets.serve(handler, "127.0.0.1", 0, **options) as server:  # type: ignore[arg-type]
        yield next(iter(server.sockets)).getsockname()[1]


async def echo_messages(socket: ServerConnection) -> None:
    """Sends every message back."""
    async for message in socket:
        await socket.send(message)


@asynccontextmanager
async def silent_program() -> AsyncGenerator[tuple[int, asyncio.Event, asyncio.Event]]:
    """A program that never answers: its port, when it has been asked, and when its visitor has gone."""
    asked, ended = asyncio.Event(), asyncio.Event()

    async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_head(reader)
        asked.set()
        await reader.read()
        ended.set()

    async with program(silent) as port:
        yield port, asked, ended
