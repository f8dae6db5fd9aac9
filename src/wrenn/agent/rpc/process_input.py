"""Forwards input, terminal sizes and signals from the control plane to a followed process."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, Final

from wrenn.agent.rpc.websocket import WebSocket
from wrenn.base.errors import InvalidRequest, WrennError
from wrenn.base.units import KIB, MIB
from wrenn.guest import FollowedProcess
from wrenn.protocol.host.streams import Kind, parse_json

_WAITING_B: Final = 1 * MIB
"""Input that may wait for the process to read it; with more, nothing is read from the control plane any more."""
_WRITE_B: Final = 512 * KIB
"""The most that is written at a time: the HTTP client warns of bodies above 1 MiB, because they occupy the event loop."""


class InputForwarder:
    """Forwards messages from the WebSocket to the process.

    Input that the process cannot take is dropped, as by a pipe whose reader is gone: it has closed its input, has none, or
    has ended. So are sizes and signals for one that has ended or has no terminal.

    Attributes:
        begin: set once the process has started; until then nothing is passed on.
    """

    def __init__(self, process: FollowedProcess, socket: WebSocket, mark_active: Callable[[], None]) -> None:
        self._process = process
        self._socket = socket
        self._mark_active = mark_active
        self._waiting = bytearray()
        self._ended = False
        self._refused = False
        # One writes and one reads, so two events do; a condition would take three more turns of the loop for each key.
        self._more = asyncio.Event()
        self._has_space = asyncio.Event()
        self.begin = asyncio.Event()

    async def run(self) -> None:
        """Forward messages until the client disconnects; then raise PeerDisconnected."""
        reading, writing = asyncio.create_task(self._read()), asyncio.create_task(self._write())
        try:
            # Writing ends with the input, but an error of it must end the stream, or the client would wait forever.
            await asyncio.wait({reading, writing}, return_when=asyncio.FIRST_EXCEPTION)
        finally:
            for task in (reading, writing):
                task.cancel()
            await asyncio.wait({reading, writing})
        for task in (writing, reading):
            if not task.cancelled():
                task.result()

    async def _read(self) -> None:
        while True:
            await self._take(await self._socket.receive())

    async def _take(self, message: bytes) -> None:
        match message[0]:
            case Kind.INPUT:
                await self._put(message[1:])
            case Kind.CLOSE_INPUT:
                self._ended = True
                self._more.set()
            case Kind.RESIZE | Kind.SIGNAL:
                await self.begin.wait()
                await self._apply(message[0], parse_json(message[1:]))
            case _:
                raise InvalidRequest("A message of the stream has an unknown kind.")
        self._mark_active()

    async def _put(self, data: bytes) -> None:
        while len(self._waiting) >= _WAITING_B and not self._refused:
            self._has_space.clear()
            await self._has_space.wait()
        if not self._ended and not self._refused:
            self._waiting += data
            self._more.set()

    async def _write(self) -> None:
        """Write buffered input. One write at a time keeps the order; whatever arrives meanwhile joins the next one."""
        await self.begin.wait()
        try:
            while True:
                await self._more.wait()
                self._more.clear()
                while data := bytes(self._waiting[:_WRITE_B]):
                    del self._waiting[:_WRITE_B]
                    self._has_space.set()
                    await self._process.write(data)
                if self._ended:
                    await self._process.close_input()
                    return
        except WrennError:
            self._refused = True
            self._waiting.clear()
            self._has_space.set()

    async def _apply(self, kind: int, value: dict[str, Any]) -> None:
        try:
            if kind == Kind.RESIZE:
                await self._process.resize(int(value["cols"]), int(value["rows"]))
            else:
                await self._process.signal(int(value["signal"]))
        except (KeyError, TypeError, ValueError) as error:
            raise InvalidRequest("A message of the stream lacks its value.") from error
        except WrennError:
            return
